"""Phases of `gpu.py --first`: the first questions for a GPU, with one result per answer.

Do the kernels compile without local memory? Does each way of training give the losses of the
definitions?
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device, select, to_host
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.kernels.cuda.backend import CuPyBackend
from nnaccel.kernels.cuda.signatures import expressions
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses, optimizers
from nnaccel.maths.network import mlp
from nnaccel.training.data import put
from nnaccel.training.step import compile_run, initialize, order_of

Results = Iterator[tuple[str, Any]]

# The largest allowed relative difference of an epoch's loss from the definition on the CPU.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}


class Said(logging.Handler):
    """Collects the debug lines, in which each fallback is reported."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def answered(name: str, ask: Callable[..., dict[str, Any]], *args: Any) -> tuple[str, Any]:
    """The name and result of ask(*args), with the number of captured graphs and the first other log
    lines. An exception becomes the problem of the result, so that the phase continues."""
    said, begun = Said(), time.perf_counter()
    logger = logging.getLogger("nnaccel")
    logger.addHandler(said)
    try:
        found = ask(*args)
    except Exception as error:  # of any kind
        found = {"problem": f"{name}: {type(error).__name__}: {str(error)[:400]}"}
    finally:
        logger.removeHandler(said)
    graphs = [line for line in said.lines if line.startswith("captured")]
    others = [line for line in said.lines if line not in graphs]
    found |= {"seconds": round(time.perf_counter() - begun, 3), "graphs": len(graphs)}
    return name, found | {"said": others[:5]}


# Kernels


def kernels(args: argparse.Namespace) -> Results:
    """Compiles each kernel as CuPy does, and reads the resources that it uses on the device."""
    if args.device != "cuda":
        yield "kernels", {"note": "a CPU has none"}
        return
    yield answered("kernels", compiled, list(expressions()), args.threads)


def compiled(names: list[str], threads: int) -> dict[str, Any]:
    """The number of kernels that compile, the kernels with local memory, the one-launch epoch
    kernels, and the problems with the others."""
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(names, pool.map(resources, names), strict=True))
    good = {name: x for name, x in found.items() if isinstance(x, dict)}
    bad = {name: x for name, x in found.items() if isinstance(x, str)}
    result = {
        "compiled": len(good),
        "most_registers": max((x["registers"] for x in good.values()), default=0),
        "with_local_memory": {name: x for name, x in good.items() if x["local"]},
        "small_epoch": {name: x for name, x in good.items() if "small_epoch" in name},
    }
    if bad:
        name, reason = next(iter(bad.items()))
        result |= {"failed": bad, "problem": f"{len(bad)} do not compile; {name}: {reason}"}
    return result


def resources(expression: str) -> dict[str, int] | str:
    """Registers per thread and bytes of local and shared memory of a kernel; the error message if
    it does not compile.

    expression: the C++ name of the kernel.
    """
    from nnaccel.kernels.cuda.launch import kernel

    name, _, types = expression.rstrip(">").partition("<")
    try:
        with select("cuda").context():
            found = kernel(name, *types.split(", "))
            numbers = found.num_regs, found.local_size_bytes, found.shared_size_bytes
    except Exception as error:  # from the compiler or from CUDA
        return str(error).strip()[:400]
    return dict(zip(("registers", "local", "shared"), numbers, strict=True))


# Runs


class Trial(NamedTuple):
    """A training run to compare with the definitions on the CPU."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    precision: str = "float32"
    dtype: str = "float32"
    activation: str = "relu"
    dropout: float = 0.0
    graphs: bool = True
    networks: int = 1


def trials() -> Iterator[Trial]:
    wide = (40, 128, 64, 10)  # too large for one launch
    for dtype in ("float32", "float64"):
        yield Trial("one launch", (2, 4, 2), 100, dtype=dtype, activation="tanh")
        yield Trial("one launch, tiles", (3, 40, 3), 128, dtype=dtype, activation="tanh")
        yield Trial("graphs", wide, 128, dtype=dtype)
        yield Trial("no graphs", wide, 128, dtype=dtype, graphs=False)
        yield Trial("five networks", wide, 128, dtype=dtype, activation="silu", networks=5)
        yield Trial("dropout", wide, 128, dtype=dtype, activation="gelu", dropout=0.1)
    yield Trial("many classes", (40, 64, 700), 64)
    for precision in ("tf32", "bf16"):
        for activation in ("relu", "gelu"):
            yield Trial("graphs", wide, 128, precision, activation=activation)


def runs(args: argparse.Namespace) -> Results:
    for trial in trials():
        words = [trial.name, *{trial.dtype, trial.precision} - {"float32"}, trial.activation]
        yield answered(", ".join(words), compared, trial, select(args.device))


def compared(trial: Trial, device: Device, epochs: int = 3) -> dict[str, Any]:
    """Compares the losses of some epochs on the device with the definitions on the CPU."""
    there = backend_of(device.xp)
    if isinstance(there, CuPyBackend):
        there = CuPyBackend(device.xp, graphs=trial.graphs)
    host = select("cpu")
    found, kernels = trained(trial, device, there, epochs)
    expected, _ = trained(trial, host, backend_of(host.xp, False), epochs)
    difference = float(np.max(np.abs(found - expected) / np.abs(expected)))
    kind = trial.dtype if trial.precision == "float32" else trial.precision
    result = {"losses": found.tolist(), "largest_difference": difference, "kernels": kernels}
    if not difference <= TOLERANCE[kind]:
        result["problem"] = f"{trial.name} in {kind} differs by {difference:.1e}"
    return result


def trained(trial: Trial, device: Device, backend: Backend, epochs: int) -> tuple[np.ndarray, str]:
    """The mean loss of each epoch of 20 batches and a shorter one, and the name of the kernels that
    ran."""
    rng, (D, *hidden, K) = np.random.default_rng(0), trial.sizes
    N = 20 * trial.batch + 7
    X, Y = rng.standard_normal((N, D)).astype(trial.dtype), rng.integers(0, K, N)
    network = mlp(D, hidden, K, activation=trial.activation, dropout=trial.dropout)
    loss, optimizer = losses.get("softmax_cross_entropy"), optimizers.get("adam", 1e-3)
    with device.context():
        data = put(network, loss, device, trial.dtype, X, Y)
        several = trial.networks if trial.networks > 1 else None
        start = initialize(network, members=several)
        params = device.asarray(start, trial.dtype, copy=True)
        run = Run(network, loss, optimizer, trial.batch, params.dtype, precision=trial.precision)
        compiled = compile_run(backend, run)
        state = optimizer.init(params, xp=device.xp)
        params, state = map(compiled.split_params, (params, state))
        epoch, means = compiled.epoch_of(0), []
        for number in range(1, epochs + 1):
            order = device.asarray(order_of(N, 0, number))
            with backend.context(network, trial.batch, trial.precision), np.errstate(all="ignore"):
                params, state, records = epoch(params, state, data, order)
            means.append(to_host(records).mean(axis=0))
    return np.array(means), backend.explain(run)
