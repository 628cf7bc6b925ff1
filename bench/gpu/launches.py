"""A phase of `gpu.py`: the host's calls in a training step, and whether the host waits in a step.

Two independent measurements. First, a kernel occupies the whole GPU before some steps. If the host
has launched all steps before that kernel ends, no step waits for the device. Second, CUPTI counts
the calls of the whole process, through PyTorch's profiler. Counts that grow with the number of
steps belong to a step, and the others to an epoch.
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
HELD = 0.5  # seconds that the occupying kernel runs

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
    for shape in shapes[:-1]:  # the largest needs gigabytes, and has the same launches
        X, Y, order = examples(shape)
        trainer = Trainer(shape, X, Y, device)
        # Uploaded beforehand: an upload would wait for the kernel that occupies the device.
        orders = {n: device.asarray(order_of(n, shape, order)) for n in (STEPS, 2 * STEPS)}
        for _ in range(2):  # until graphs are captured, for both lengths of an epoch
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
    """The order of the examples of n steps, repeated if there are too few examples."""
    return np.resize(order, n * shape.batch)


def waiting(trainer: Trainer, order: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the host has launched the steps, while a kernel occupies the GPU, and whether
    the host waits in a step."""
    held = hold() if args.device == "cuda" else 0.0
    started = time.perf_counter()
    records = trainer.launch(order)
    host = time.perf_counter() - started
    to_host(records)
    total = time.perf_counter() - started
    return {"held": held, "host": host, "total": total, "steps": STEPS, "waits": host >= held > 0}


def hold() -> float:
    """Launches a kernel that occupies every multiprocessor, so that no other stream can run.

    Returns its duration in seconds.
    """
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    blocks = properties["multiProcessorCount"] * (properties["maxThreadsPerMultiProcessor"] // 1024)
    kernel = cupy.RawKernel(HOLD, "hold")
    kernel((blocks,), (1024,), (cupy.uint64(1),))  # compiles the kernel
    cupy.cuda.Device().synchronize()
    kernel((blocks,), (1024,), (cupy.uint64(int(1e9 * HELD)),))
    return HELD


def calls(shape: Shape, args: argparse.Namespace, *, graphs: bool = True) -> dict[str, Any]:
    """The counts of CUPTI per step and per epoch, with CUDA graphs or without."""
    device = select(args.device)
    X, Y, order = examples(shape)
    trainer = Trainer(shape, X, Y, device, backend=CuPyBackend(device.xp, graphs=graphs))
    counts = []
    for n in (STEPS, STEPS, 2 * STEPS):  # the first warms up the profiler
        some = device.asarray(order_of(n, shape, order))
        trainer.epoch(some)
        counts.append(tally(profiled(lambda some=some: trainer.epoch(some))))
    return per_step(counts[1], counts[2])


def profiled(function: Callable[[], Any]) -> list[dict[str, Any]]:
    """The events during a call of `function`, as in the trace files of PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=activities) as found:
            function()
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def tally(events: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The numbers of kernels, kernels by name, copies by direction, launches, graph launches among
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
    """The counts per step, from the STEPS additional steps of the longer epoch, and the counts per
    epoch, the rest of the shorter one."""
    step = {name: (long[name] - short[name]) / STEPS for name in long}
    epoch = {name: short[name] - STEPS * value for name, value in step.items()}
    result: dict[str, Any] = {
        "step": {name: value for name, value in step.items() if value},
        "epoch": {name: value for name, value in epoch.items() if value},
    }
    if not long["kernels"]:
        result["note"] = "the profiler has seen no kernels"
    return result
