"""Whole training steps: their cost, how it grows, several networks at once, and memory."""

import sys
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
from conftest import floor_of

from nnaccel.benchmark import SHAPES, Shape, Trainer, examples
from nnaccel.network import layout
from nnaccel.training import initialize


def trainer_of(shape, device, **options):
    X, Y, order = examples(shape)
    trainer = Trainer(shape.network, X, Y, device, batch_size=shape.batch, **options)
    return trainer, device.asarray(order)


def timed_epochs(record, shape, device, **more):
    trainer, order = trainer_of(shape, device)
    record(
        lambda: trainer.epoch(order),
        device=device,
        repeats=shape.steps,
        flops=shape.flops,
        samples=shape.batch,
        floor=floor_of(shape, device),
        **more,
    )
    return float(trainer.epoch(order).mean())


@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
def test_step(record, benchmark, device, shape):
    benchmark.extra_info["final_loss"] = timed_epochs(record, shape, device)


BASE = Shape((256, 256, 10), 256)
GROWING = {
    "batch": [BASE._replace(batch=n) for n in (64, 128, 256, 512, 1024)],
    "width": [BASE._replace(sizes=(256, n, 10)) for n in (64, 128, 256, 512, 1024)],
    "depth": [BASE._replace(sizes=(256, *[256] * n, 10)) for n in (1, 2, 4, 8)],
}


@pytest.fixture(scope="module")
def costs():
    """Seconds a step by what grows, so that the last one can fit the exponent."""
    return defaultdict(list)


@pytest.mark.benchmark(group="scaling")
@pytest.mark.parametrize(
    ("what", "shape"), [(what, shape) for what, shapes in GROWING.items() for shape in shapes]
)
def test_scaling(record, benchmark, device, costs, what, shape):
    """exponent: of seconds a step as a power of what grows, fitted to the sizes so far."""
    timed_epochs(record, shape, device, what=what)
    points = costs[device.name, what]
    size = {"batch": shape.batch, "width": shape.sizes[1], "depth": len(shape.sizes) - 2}[what]
    points.append((size, benchmark.extra_info["seconds"]))
    if len(points) > 1:
        benchmark.extra_info["exponent"] = float(np.polyfit(*np.log(points).T, 1)[0])


@pytest.mark.benchmark(group="members")
@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_members(record, device, together):
    """K networks of one shape: by a leading axis of the parameters, or one after the other."""
    shape, K = SHAPES[1], 8
    params = initialize(shape.network, members=K)
    starts = [params] if together else list(params)
    trainers = [trainer_of(shape, device, params=start) for start in starts]

    def epoch():
        for trainer, order in trainers:
            trainer.epoch(order)

    record(
        epoch,
        device=device,
        repeats=shape.steps,
        flops=K * shape.flops,
        samples=K * shape.batch,
        floor=K * floor_of(shape, device),
    )


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda s: s.name)
def test_memory(record, benchmark, device, shape):
    """Peak of the host's memory over the data, beside what training cannot do without:
    parameters, gradient and two moments, and each activation with its gradient."""
    if device.library != "numpy":
        pytest.skip("only NumPy reports what it allocates to the interpreter")
    X, Y, order = examples(shape)
    Trainer(shape.network, X, Y, device, batch_size=shape.batch).epoch(order)  # loads the kernels
    tracemalloc.start()
    trainer = Trainer(shape.network, X, Y, device, batch_size=shape.batch)
    trainer.epoch(order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    needed = 4 * (4 * layout(shape.network).size + 2 * shape.batch * sum(shape.sizes))
    benchmark.extra_info.update(peak_bytes=peak, needed_bytes=needed, ratio=peak / needed)
    record(lambda: trainer.epoch(order), device=device, repeats=shape.steps, rounds=2)
    print(f"{shape.name}: {peak / needed:.2f} of what is needed", file=sys.stderr)
