"""Whole training steps: their cost, how it grows, several networks at once, memory, and whether
a network that has converged still trains as fast."""

import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
from conftest import bare_steps
from measures import exponent

from nnaccel.devices.device import to_host
from nnaccel.maths.network import layout, leaves
from nnaccel.training.benchmark import SHAPES, Shape, Trainer, examples, interleaved
from nnaccel.training.step import initialize


def trainer_of(shape, device, rows=None, **options):
    """A trainer and the order of an epoch over so many rows, or as many as the shape suggests."""
    X, Y, order = examples(shape)
    if rows is not None:
        order = np.random.default_rng(0).permutation(rows)
        X, Y = np.resize(X, (rows, X.shape[1])), np.resize(Y, rows)
    trainer = Trainer(shape, X, Y, device, **options)
    return trainer, device.asarray(order)


def work(shape, device, steps, networks=1):
    """What `record` is told of an epoch of so many steps."""
    return {
        "device": device,
        "bare": bare_steps(shape, device, networks * steps),
        "repeats": steps,
        "flops": networks * shape.flops,
        "samples": networks * shape.batch,
    }


def last_loss(trainer, order):
    return float(trainer.epoch(order).mean())


@pytest.mark.benchmark(group="step")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
def test_step(record, benchmark, device, shape):
    trainer, order = trainer_of(shape, device)
    record(lambda: trainer.epoch(order), **work(shape, device, shape.steps))
    benchmark.extra_info["final_loss"] = last_loss(trainer, order)


BASE = Shape((256, 256, 10), 256)
GROWING = {
    "batch": {n: BASE._replace(batch=n) for n in (64, 128, 256, 512, 1024)},
    "width": {n: BASE._replace(sizes=(256, n, 10)) for n in (64, 128, 256, 512, 1024)},
    "depth": {n: BASE._replace(sizes=(256, *[256] * n, 10)) for n in (1, 2, 4, 8)},
    "rows": dict.fromkeys((1024, 4096, 16384, 65536), BASE),
}


@pytest.fixture(scope="module")
def costs():
    """(size, seconds) by what grows, so that the last one can fit the exponent."""
    return defaultdict(list)


@pytest.mark.benchmark(group="scaling")
@pytest.mark.parametrize(
    ("what", "size"), [(what, size) for what, shapes in GROWING.items() for size in shapes]
)
def test_scaling(record, benchmark, device, costs, what, size):
    """exponent, with the last of each kind: a where cost goes with size^a. The cost is that of a
    step, and where the number of rows grows that of an epoch."""
    shape = GROWING[what][size]
    steps = size // shape.batch if what == "rows" else shape.steps
    trainer, order = trainer_of(shape, device, rows=steps * shape.batch)
    record(
        lambda: trainer.epoch(order),
        **work(shape, device, steps),
        what=what,
        size=size,
        final_loss=last_loss(trainer, order),
    )
    points = costs[device.name, what]
    points.append((size, benchmark.extra_info["seconds"] * (steps if what == "rows" else 1)))
    if len(points) == len(GROWING[what]):
        benchmark.extra_info["exponent"] = exponent(*zip(*points, strict=True))


@pytest.mark.benchmark(group="members")
@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_members(record, benchmark, device, together):
    """K networks of one shape: by a leading axis of the parameters, or one after the other."""
    shape, K = SHAPES[1], 8
    params = initialize(shape.network, members=K)
    starts = [params] if together else list(params)
    trainers = [trainer_of(shape, device, params=start) for start in starts]

    def epoch():
        for trainer, order in trainers:
            trainer.epoch(order)

    record(epoch, **work(shape, device, shape.steps, networks=K), networks=K)
    losses = [last_loss(trainer, order) for trainer, order in trainers]
    benchmark.extra_info["final_loss"] = float(np.mean(losses))


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda s: s.name)
def test_memory(record, benchmark, device, shape):
    """Peak of the host's memory over the data, beside what training cannot do without: values,
    gradient and two moments of the parameters, the batch and the activations, and the gradients
    of these. For the largest network it is no more than a fifth above."""
    if device.library != "numpy":
        pytest.skip("only NumPy reports what it allocates to the interpreter")
    trainer_of(shape, device)[0].epoch(np.arange(shape.batch))  # loads the kernels
    X, Y, order = examples(shape)
    tracemalloc.start()
    trainer = Trainer(shape, X, Y, device)
    trainer.epoch(order)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    arrays = shape.batch * (sum(shape.sizes) + sum(shape.sizes[1:]))
    needed = 4 * (4 * layout(shape.network).size + arrays)
    if shape == SHAPES[-1]:
        assert peak <= 1.2 * needed
    benchmark.extra_info.update(
        peak_bytes=peak, needed_bytes=needed, memory_ratio=peak / needed, memory_limit=1.2
    )
    record(lambda: trainer.epoch(order), **work(shape, device, shape.steps), rounds=2)
    benchmark.extra_info["final_loss"] = last_loss(trainer, order)


@pytest.mark.benchmark(group="converged")
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_converged(record, benchmark, device, fast):
    """A network trained to a loss near nothing, beside the same one at the beginning.

    Half of its inputs fall silent on the way: the gradients of their weights are 0 from then on,
    and their moments shrink until they are denormal, unless something is done about it."""
    if not fast and device.library != "numpy":
        pytest.skip("there is one set of kernels for this library")
    shape, steps = SHAPES[1], 8
    rows = steps * shape.batch
    trainer, order = trainer_of(shape, device, rows=rows, fast=fast)
    fresh, _ = trainer_of(shape, device, rows=rows, fast=fast)
    for epoch in range(3000):
        if epoch == 200:
            X = np.array(to_host(trainer.data.X))
            X[:, ::2] = 0.0
            trainer.data = trainer.data._replace(X=device.asarray(X))
        trainer.epoch(order)
    first, last = interleaved(lambda: fresh.epoch(order), lambda: trainer.epoch(order), seconds=0.5)
    record(lambda: trainer.epoch(order), **work(shape, device, steps))
    benchmark.extra_info.update(
        first_ms=1e3 * first / steps,
        last_ms=1e3 * last / steps,
        last_over_first=last / first,
        final_loss=last_loss(trainer, order),
        denormals=denormals(trainer),
    )


def denormals(trainer):
    """How many numbers of the parameters and moments are not 0 and below the smallest normal."""
    arrays = [to_host(x) for x in leaves((trainer.params, trainer.state.slots))]
    tiny = np.finfo(np.float32).tiny
    return sum(int(np.sum((x != 0) & (abs(x) < tiny))) for x in arrays)
