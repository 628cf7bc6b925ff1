"""PyTorch as a contestant: see `contestants.py`."""

import itertools
from collections.abc import Callable
from typing import Any

from bench.shared.precisions import torch_precision
from bench.shared.shapes import LEARNING_RATE, Problem

Run = Callable[[int], float]


def torch_eager(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """The loop of PyTorch's tutorials, with the fused Adam."""
    return _torch(problem, device, precision, compiled=False)


def torch_compiled(problem: Problem, device: str = "cpu", precision: str | None = None) -> Run:
    """The same model under `torch.compile`."""
    return _torch(problem, device, precision, compiled=True)


def _torch(problem: Problem, device: str, precision: str | None, *, compiled: bool) -> Run:
    import torch

    X, Y, order, loss_of, optimizer = _torch_parts(problem, device, precision)
    if compiled:
        # Otherwise PyTorch would compile for dynamic shapes at the second problem.
        torch.compiler.reset()
        loss_of = torch.compile(loss_of)

    def run(epochs: int) -> float:
        losses: list[Any] = []
        for _ in range(epochs):
            losses = []
            for index in order:
                loss = loss_of(X[index], Y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if device == "cuda":
            torch.cuda.synchronize()
        return mean

    return run


def torch_graphs(problem: Problem, device: str = "cuda", precision: str | None = None) -> Run:
    """A whole step of PyTorch in a CUDA graph: a single launch per step.

    The step counter is in the graph, too, so that no minibatch has to be copied. On the CPU, which
    has no graphs, the same step is called.
    """
    import torch

    on_gpu = device == "cuda"
    X, Y, order, loss_of, optimizer = _torch_parts(problem, device, precision, capturable=on_gpu)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    start = [p.detach().clone() for p in params]
    number = torch.zeros(1, dtype=torch.int64, device=device)
    losses = torch.zeros(len(order), device=device)

    def step() -> None:
        index = order.index_select(0, number)[0]
        loss = loss_of(X.index_select(0, index), Y.index_select(0, index))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.index_copy_(0, number, loss.detach().float().view(1))
        number.add_(1)

    def restart() -> None:
        """Restores the initial parameters, in the memory that the graph uses."""
        with torch.no_grad():
            for p, value in zip(params, start, strict=True):
                p.copy_(value)
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def captured() -> Callable[[], None]:
        # As in PyTorch's notes on CUDA graphs: a few steps on another stream, then the capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
                number.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        restart()
        return graph.replay

    replay = captured() if on_gpu else step

    def run(epochs: int) -> float:
        for _ in range(epochs):
            number.zero_()
            for _ in range(len(order)):
                replay()
        return float(losses.mean())

    return run


def _torch_parts(
    problem: Problem, device: str, precision: str | None, **adam: Any
) -> tuple[Any, Any, Any, Callable[..., Any], Any]:
    """(X, Y, order, loss of a batch, optimizer), on the device."""
    import torch

    sizes = problem.shape.sizes
    modules: list[Any] = []
    for i, (D, H) in enumerate(itertools.pairwise(sizes)):
        modules += [torch.nn.ReLU()] if i else []
        linear = torch.nn.Linear(D, H)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(problem.weights[i].T))
            linear.bias.copy_(torch.from_numpy(problem.biases[i]))
        modules.append(linear)
    model = torch.nn.Sequential(*modules).to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True, **adam)
    X, Y, order = (
        torch.from_numpy(array).to(device) for array in (problem.X, problem.Y, problem.order)
    )
    criterion = torch.nn.functional.cross_entropy
    if problem.shape.loss == "binary_cross_entropy":
        criterion, Y = torch.nn.functional.binary_cross_entropy_with_logits, Y[:, None].float()
    bfloat16 = torch_precision(precision)

    def loss_of(x: Any, y: Any) -> Any:
        if not bfloat16:
            return criterion(model(x), y)
        # A captured graph cannot use autocast's cache, and each weight is cast once in a step.
        with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
            return criterion(model(x), y)

    return X, Y, order, loss_of, optimizer
