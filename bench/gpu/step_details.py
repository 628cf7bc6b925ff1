"""Phases of `gpu.py --first`: the time of a step, its products, and its kernels."""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.gpu.first_minutes import answered
from bench.gpu.launches import profiled
from bench.shared.shapes import BINARY, LARGE, SHAPES, Shape
from nnaccel.devices.device import Device, select, to_host
from nnaccel.kernels.cuda.backend import CuPyBackend
from nnaccel.training.benchmark import Trainer, examples

Results = Iterator[tuple[str, Any]]

PROFILED = 16  # steps
TINY, MIDDLE = Shape((8, 16, 4), 16), Shape((20, 40, 36, 10), 32)  # in a rehearsal


def steps(args: argparse.Namespace) -> Results:
    """Microseconds per step, from epochs of two lengths, whose difference excludes the start of an
    epoch."""
    device, seconds = select(args.device), 0.02 if args.rehearse else 1.0
    small, middle, large = (TINY, MIDDLE, TINY) if args.rehearse else (SHAPES[0], SHAPES[2], LARGE)
    plain = (small,) if args.rehearse else (small, BINARY, SHAPES[1])
    for shape in plain:
        yield answered(shape.name, step_of, shape, device, seconds)
    for precision in ("float32", "tf32", "bf16"):
        for graphs in (True, False):
            name = f"{middle.name} {precision}" + ("" if graphs else " without graphs")
            yield answered(name, step_of, middle, device, seconds, precision, graphs)
    for precision in ("bf16", "tf32", "float32"):
        for shape in (SHAPES[3], large) if not args.rehearse else (large,):
            name = f"{shape.name} {precision}"
            yield answered(name, step_of, shape, device, seconds, precision)


def step_of(
    shape: Shape, device: Device, seconds: float, precision: str = "float32", graphs: bool = True
) -> dict[str, Any]:
    X, Y, order = examples(shape)
    backend = None if graphs or device.library != "cupy" else CuPyBackend(device.xp, graphs=False)
    trainer = Trainer(shape, X, Y, device, precision=precision, backend=backend)
    found: dict[str, Any] = {"kernels": trainer.kernels}
    for n in sorted({shape.steps_on_gpu // 8, shape.steps_on_gpu}):
        some = device.asarray(np.resize(order, n * shape.batch))
        for _ in range(1 + 8 // n + 2):  # until the graphs of these steps are captured
            trainer.epoch(some)
        times, stop = [], time.perf_counter() + seconds
        while time.perf_counter() < stop or len(times) < 3:
            begun = time.perf_counter()
            trainer.epoch(some)
            times.append((time.perf_counter() - begun) / n)
        found[f"of {n} steps"] = {
            "best_us": round(1e6 * min(times), 2),
            "median_us": round(1e6 * float(np.median(times)), 2),
            "tflops": round(shape.flops / min(times) / 1e12, 2),
        }
    return found


# Products


def products(args: argparse.Namespace) -> Results:
    """The error of the products in each precision, and the rate of each suggested algorithm."""
    if args.device != "cuda":
        yield "products", {"note": "a CPU has no cuBLASLt"}
        return
    for precision in ("float32", "tf32", "bf16", "float64"):
        for size in ((256, 784, 512), (784, 256, 512), (256, 512, 512), (8192, 4096, 4096)):
            if precision != "float64" or size[0] < 8192:
                name = f"{precision} {'x'.join(map(str, size))}"
                yield answered(name, algorithms, precision, *size)


def address(x: Any) -> int:
    """The device address of the first element of a CuPy array."""
    return x.data.ptr


def algorithms(precision: str, N: int, D: int, H: int) -> dict[str, Any]:
    """The relative error of one product (N, D) by (D, H), and a row for each algorithm.

    A row has the microseconds, TFLOP/s, and whether the algorithm is the chosen one. If it sums in
    the output, the row also says whether it gives the same bits in each run.
    """
    import cupy

    from nnaccel.kernels.cuda import algorithm_choice
    from nnaccel.kernels.cuda.workspace import Workspace

    device = select("cuda")
    dtype = "float64" if precision == "float64" else "float32"
    numbers = np.random.default_rng(0).standard_normal(1_000_003).astype(dtype)
    X, Y = np.resize(numbers, (N, D)), np.resize(numbers[::-1], (D, H))
    exact = X[:8].astype(np.float64) @ Y.astype(np.float64)
    with device.context():
        space = Workspace(device.xp, "float32" if precision == "float64" else precision)
        x, y = (space.copies.factor(device.asarray(a)) for a in (X, Y))
        out = device.asarray(np.zeros((N, H), dtype))
        found = to_host(space.products.matmul(x, y, out))[:8].astype(np.float64)
        result: dict[str, Any] = {
            "error": float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
            "algorithms": [],
        }
        (plan,) = space.products._plans.values()
        if plan is None:
            return result | {"problem": f"{precision}: cuBLASLt has no algorithm"}
        stream, taken = cupy.cuda.get_current_stream(), bytes(plan.algorithm)[:64]
        places = [*map(address, (x, y, out)), space.products._workspace]
        some = plan.candidates(in_place=True)
        times = algorithm_choice.timed(
            plan, some, places, stream, range(len(some)), algorithm_choice.ROUNDS
        )
        for algorithm, milliseconds in zip(some, times, strict=True):
            us = 1e3 * milliseconds / algorithm_choice.REPEATS
            row = {"us": round(us, 2), "tflops": round(2e-6 * N * D * H / us, 1)}
            row["taken"] = bytes(algorithm)[:64] == taken
            if plan.sums_in_place(algorithm):
                plan.choose(algorithm)
                row["same_bits"] = algorithm_choice.has_same_bits(plan, places, stream, out)
            result["algorithms"].append(row)
    return result


# Profile


def profile(args: argparse.Namespace) -> Results:
    """Microseconds of each kernel in a step, without graphs, from PyTorch's profiler."""
    middle, large = (MIDDLE, TINY) if args.rehearse else (SHAPES[2], LARGE)
    for shape, precision in ((middle, "tf32"), (middle, "bf16"), (large, "bf16")):
        yield answered(f"{shape.name} {precision}", kernels_of, shape, precision, args.device)


def kernels_of(shape: Shape, precision: str, name: str) -> dict[str, Any]:
    device = select(name)
    X, Y, order = examples(shape)
    some = device.asarray(np.resize(order, PROFILED * shape.batch))
    backend = CuPyBackend(device.xp, graphs=False) if device.library == "cupy" else None
    trainer = Trainer(shape, X, Y, device, precision=precision, backend=backend)
    for _ in range(3):
        trainer.epoch(some)
    try:
        profiled(lambda: trainer.epoch(some))  # warms up the profiler
        events = profiled(lambda: trainer.epoch(some))
    except ImportError as error:
        return {"note": f"the profiler is PyTorch's: {error}"}
    return by_kernel(events)


def by_kernel(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Launches and microseconds per step of each kernel, in descending order."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "kernel":
            times[str(event["name"])[:70]].append(event["dur"])
    rows = [[name, len(x) / PROFILED, round(sum(x) / PROFILED, 2)] for name, x in times.items()]
    rows.sort(key=lambda row: -row[2])
    return {"us_a_step": round(sum(row[2] for row in rows), 1), "kernels": rows[:16]}
