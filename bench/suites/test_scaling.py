"""How the cost of a step grows, several networks at once, memory, and whether a network that has
converged still trains as fast."""

import tracemalloc
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from bench.shared.measures import exponent
from bench.suites.race import Backend, Work
from nnaccel.devices.device import Device, to_host
from nnaccel.kernels.definition import NotSupported
from nnaccel.maths.network import layout, leaves
from nnaccel.training.benchmark import SHAPES, Shape, Trainer, examples, interleaved, products
from nnaccel.training.step import initialize


def trainer_of(
    shape: Shape, device: Device, rows: int | None = None, **options: Any
) -> tuple[Trainer, Any]:
    """A trainer and the order of an epoch over some rows, or as many as the shape suggests."""
    X, Y, order = examples(shape)
    if rows is not None:
        order = np.random.default_rng(0).permutation(rows)
        X, Y = np.resize(X, (rows, X.shape[1])), np.resize(Y, rows)
    return Trainer(shape, X, Y, device, **options), device.asarray(order)


def epochs_of(shape: Shape, device: Device, rows: int, trainer: Trainer, order: Any) -> Work:
    """A step of an epoch over some rows."""
    steps, bare = rows // shape.batch, products(shape, device)
    return Work(
        lambda: trainer.epoch(order),
        steps,
        lambda: bare(steps),
        shape.flops,
        shape.batch,
    )


BASE = Shape((256, 256, 10), 256)
GROWING = {
    "batch": {n: BASE._replace(batch=n) for n in (64, 256, 1024)},
    "width": {n: BASE._replace(sizes=(256, n, 10)) for n in (64, 256, 1024)},
    "depth": {n: BASE._replace(sizes=(256, *[256] * n, 10)) for n in (1, 2, 4, 8)},
    "rows": dict.fromkeys((1024, 8192, 65536), BASE),
}


def growing(backend: Backend, name: str, size: int) -> Work:
    """A step; an epoch if the number of rows grows."""
    shape = GROWING[name][size]
    rows = size if name == "rows" else shape.steps * shape.batch
    work = epochs_of(shape, backend.device, rows, *trainer_of(shape, backend.device, rows))
    if name != "rows":
        return work
    flops, samples = work.flops * work.repeats, work.samples * work.repeats
    return work._replace(repeats=1, flops=flops, samples=samples)


@pytest.fixture(scope="module")
def costs():
    """(size, seconds) for each growing quantity, so that the last test can fit the exponent."""
    return defaultdict(list)


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, shapes in GROWING.items() for size in shapes]
)
def test_scaling(race, main_backend, benchmark, costs, name, size):
    """exponent, with the last of each kind: a where the cost grows as size^a."""
    facts = race(growing, name, size, group="scaling", case=f"{name} {size}", size=size)
    points = costs[main_backend, name]
    points.append((size, facts["seconds"]))
    if len(points) == len(GROWING[name]):
        benchmark.extra_info["exponent"] = exponent(*zip(*points, strict=True))


def members(backend: Backend, together: bool, K: int) -> Work:
    """A step of K networks of one shape, by a leading axis of the parameters or one by one."""
    shape, device = SHAPES[1], backend.device
    params = initialize(shape.network, members=K)
    starts = [params] if together else list(params)
    trainers = [trainer_of(shape, device, params=start) for start in starts]
    bare = products(shape, device)

    def epoch() -> None:
        for trainer, order in trainers:
            trainer.epoch(order)

    return Work(
        epoch,
        shape.steps,
        lambda: bare(K * shape.steps),
        K * shape.flops,
        K * shape.batch,
    )


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_members(race, main_backend, together):
    """Eight networks by a leading axis, and one after the other."""
    case = f"8 of {SHAPES[1].name} {'together' if together else 'one by one'}"
    race(members, together, 8, group="members", case=case)


def memory(backend: Backend, shape: Shape) -> Work:
    """A step, the peak of the host's memory without the data, and the memory that training needs:
    values, gradient and two moments of the parameters, the minibatch and the activations, and the
    gradients of these."""
    if backend.device_name != "cpu":
        raise NotSupported("only NumPy reports what it allocates to the interpreter")
    device = backend.device
    trainer_of(shape, device)[0].epoch(np.arange(shape.batch))  # loads the kernels
    X, Y, order = examples(shape)
    order = order[: 2 * shape.batch]
    tracemalloc.start()
    trainer = Trainer(shape, X, Y, device)
    trainer.epoch(order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    arrays = shape.batch * (sum(shape.sizes) + sum(shape.sizes[1:]))
    needed = 4 * (4 * layout(shape.network).size + arrays)
    found = {"peak_bytes": peak, "needed_bytes": needed, "memory_ratio": peak / needed}
    return epochs_of(shape, device, len(order), trainer, order)._replace(facts=lambda: found)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda shape: shape.name)
def test_memory(race, main_backend, shape):
    """For the largest network the peak exceeds the need by at most a fifth."""
    facts = race(memory, shape, group="memory", case=shape.name)
    assert shape != SHAPES[-1] or facts["memory_ratio"] <= 1.2


def converged(backend: Backend) -> Work:
    """A step of a network that is trained to a loss near 0, compared with a step at the beginning.

    Half of its inputs become 0 during training: the gradients of their weights are 0 from then on,
    and their moments would shrink until they are denormal."""
    shape, rows, device = SHAPES[1], 8 * SHAPES[1].batch, backend.device
    trainer, order = trainer_of(shape, device, rows=rows)
    fresh, _ = trainer_of(shape, device, rows=rows)
    for epoch in range(3000):
        if epoch == 200:
            X = np.array(to_host(trainer.data.X))
            X[:, ::2] = 0.0
            trainer.data = trainer.data._replace(X=device.asarray(X))
        trainer.epoch(order)
    first, last = interleaved(lambda: fresh.epoch(order), lambda: trainer.epoch(order), seconds=0.5)

    def facts() -> dict[str, Any]:
        return {"last_over_first": last / first, "denormals": denormals(trainer)}

    return epochs_of(shape, device, rows, trainer, order)._replace(facts=facts)


def test_converged(race, main_backend):
    race(converged, group="converged", case=SHAPES[1].name)


def denormals(trainer: Trainer) -> int:
    """The number of denormal parameters and moments."""
    arrays = [to_host(x) for x in leaves((trainer.params, trainer.state.slots))]
    tiny = np.finfo(np.float32).tiny
    return sum(int(np.sum((x != 0) & (abs(x) < tiny))) for x in arrays)
