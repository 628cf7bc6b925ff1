"""A phase of `gpu.py`: what the host does for a step of training, and whether it waits in it.

Two independent witnesses. A kernel that fills the GPU is put ahead of some steps: where the host
has given out all of them before that kernel ends, nothing in them waits for the device. And
CUPTI, by PyTorch's profiler, which sees the whole process: what grows with the number of steps
belongs to a step, and the rest to an epoch.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.shared.shapes import Shape, gpu_shapes
from nnaccel.devices.device import select, to_host
from nnaccel.kernels.cuda.backend import CuPyBackend
from nnaccel.training.benchmark import Trainer, examples

STEPS = 8  # few enough for their launches to fit in the driver's queue of about a thousand
HELD = 0.5  # seconds

HOLD = r"""
extern "C" __global__ void hold(unsigned long long nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}
"""


def launches(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    shapes = gpu_shapes(args.rehearse)
    device = select(args.device)
    for shape in shapes[:-1]:  # the largest needs gigabytes, and launches what the others do
        X, Y, order = examples(shape)
        trainer = Trainer(shape, X, Y, device)
        # On the device already: an upload would wait its turn behind the kernel that fills it.
        orders = {n: device.asarray(order_of(n, shape, order)) for n in (STEPS, 2 * STEPS)}
        for _ in range(2):  # graphs are captured after some steps, for each length of an epoch
            for some in orders.values():
                trainer.epoch(some)
        yield f"waiting {shape.name}", waiting(trainer, orders[STEPS], args)
    for shape in shapes[:-1]:
        try:
            yield f"calls {shape.name}", calls(shape, args)
            yield f"calls {shape.name} without graphs", calls(shape, args, graphs=False)
        except ImportError as error:
            yield f"calls {shape.name}", {"note": f"the profiler is PyTorch's: {error}"}


def order_of(n: int, shape: Shape, order: np.ndarray) -> np.ndarray:
    """The order of n steps, over and over where there are examples for fewer."""
    return np.resize(order, n * shape.batch)


def waiting(trainer: Trainer, order: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds after which the host has given out the steps, while the GPU is held."""
    held = hold() if args.device == "cuda" else 0.0
    started = time.perf_counter()
    records = trainer.launch(order)
    host = time.perf_counter() - started
    to_host(records)
    total = time.perf_counter() - started
    return {"held": held, "host": host, "total": total, "steps": STEPS, "waits": host >= held > 0}


def hold() -> float:
    """Keeps every multiprocessor busy, so that no stream gets past; for how many seconds."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    blocks = properties["multiProcessorCount"] * (properties["maxThreadsPerMultiProcessor"] // 1024)
    kernel = cupy.RawKernel(HOLD, "hold")
    kernel((blocks,), (1024,), (cupy.uint64(1),))  # compiles it
    cupy.cuda.Device().synchronize()
    kernel((blocks,), (1024,), (cupy.uint64(int(1e9 * HELD)),))
    return HELD


def calls(shape: Shape, args: argparse.Namespace, *, graphs: bool = True) -> dict[str, Any]:
    """What CUPTI counts in a step and in an epoch, with CUDA graphs or without."""
    device = select(args.device)
    X, Y, order = examples(shape)
    trainer = Trainer(shape, X, Y, device, backend=CuPyBackend(device.xp, graphs=graphs))
    counts = []
    for n in (STEPS, STEPS, 2 * STEPS):  # the first one warms the profiler up
        some = device.asarray(order_of(n, shape, order))
        trainer.epoch(some)
        counts.append(tally(profiled(lambda some=some: trainer.epoch(some))))
    return per_step(counts[1], counts[2])


def profiled(function: Callable[[], Any]) -> list[dict[str, Any]]:
    """The events of a call, as in the trace files of PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=activities) as found:
            function()
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def tally(events: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Numbers of: kernels, kernels by name, copies by direction, launches, those of graphs among
    them, and waits by the name of the call."""
    counts: Counter[str] = Counter()
    for event in events:
        kind, name = event.get("cat"), str(event.get("name", ""))
        if kind == "kernel":
            counts["kernels"] += 1
            counts[f"kernel {name[:100]}"] += 1
        elif kind in ("gpu_memcpy", "gpu_memset"):
            counts[name.partition(" (")[0]] += 1
        elif kind in ("cuda_runtime", "cuda_driver"):
            if "Launch" in name:
                counts["launches"] += 1
                counts["graphs"] += "GraphLaunch" in name
                counts[f"call {name}"] += 1
            elif "Synchronize" in name:
                counts["waits"] += 1
                counts[f"call {name}"] += 1
    return counts


def per_step(short: Counter[str], long: Counter[str]) -> dict[str, Any]:
    """What STEPS more steps have added, a step; and what is left of the shorter epoch."""
    step = {name: (long[name] - short[name]) / STEPS for name in long}
    epoch = {name: short[name] - STEPS * value for name, value in step.items()}
    result: dict[str, Any] = {
        "step": {name: value for name, value in step.items() if value},
        "epoch": {name: value for name, value in epoch.items() if value},
    }
    if not long["kernels"]:
        result["note"] = "the profiler has seen no kernels"
    return result
