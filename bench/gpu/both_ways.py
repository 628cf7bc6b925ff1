"""A phase of `gpu.py --first`: each switch of `kernels/cuda/fusions.py` off and on.

It compares the losses of both settings with the definitions on the CPU, and times a step of each in
alternating epochs.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np

from bench.gpu.first_minutes import Results, Trial, answered, compared
from bench.shared.shapes import LARGE, SHAPES, Shape
from nnaccel.devices.device import Device, select
from nnaccel.kernels.cuda import fusions as switches
from nnaccel.training.benchmark import Trainer, examples

NAMES = tuple(name for name in vars(switches) if name.isupper())
WIDE = (40, 256, 256, 10)  # a network in which every switch has an effect
TINY = Shape((20, 16, 10), 16)  # in a rehearsal


@contextmanager
def switched(name: str, on: bool) -> Iterator[None]:
    """Sets a switch for the duration of the context."""
    before = getattr(switches, name)
    setattr(switches, name, on)
    try:
        yield
    finally:
        setattr(switches, name, before)


def fusions(args: argparse.Namespace) -> Results:
    """The losses and times of each switch, precision and shape. A rehearsal uses one precision and
    one shape, since the switches have no effect on a CPU."""
    device, seconds, batch = select(args.device), 0.8, 128
    precisions = ("float32", "tf32", "bf16")
    timed = {SHAPES[2]: precisions, LARGE: ("tf32", "bf16")}
    if args.rehearse:
        precisions, seconds, batch, timed = ("float32",), 0.02, 16, {TINY: ("float32",)}
    for name, precision in product(NAMES, precisions):
        trial = Trial(name, WIDE, batch, precision)
        yield answered(f"{name} {precision}", losses_of, trial, device)
    for shape in timed:
        problem = examples(shape)  # gigabytes, so generated once
        for precision, name in product(timed[shape], NAMES):
            words = f"{name} {shape.name} {precision}"
            yield answered(words, times_of, name, shape, problem, device, precision, seconds)


def losses_of(trial: Trial, device: Device, epochs: int = 3) -> dict[str, Any]:
    """The largest difference from the definitions with the switch off and on; a problem if a
    difference is too large.

    trial: its name is the name of the switch.
    """
    found: dict[str, Any] = {}
    for on in (False, True):
        with switched(trial.name, on):
            result = compared(trial, device, epochs)
        way = "on" if on else "off"
        found[way] = result["largest_difference"]
        if "problem" in result:
            found["problem"] = f"{way}: {result['problem']}"
    return found


def times_of(
    name: str, shape: Shape, problem: Any, device: Device, precision: str, seconds: float
) -> dict[str, Any]:
    """Microseconds per step with the switch off and on, the best of alternating epochs, and the
    ratio on / off: below 1 the switch saves time.

    problem: the `examples` of the shape.
    """
    X, Y, order = problem
    some = device.asarray(np.resize(order, shape.steps_on_gpu * shape.batch))
    trainers = {}
    for on in (False, True):
        trainers[on] = Trainer(shape, X, Y, device, precision=precision)
        with switched(name, on):
            for _ in range(3):  # until the graphs of these steps are captured
                trainers[on].epoch(some)
    best, stop, turns = {False: np.inf, True: np.inf}, time.perf_counter() + seconds, 0
    while time.perf_counter() < stop or turns < 3:
        turns += 1
        for on, trainer in trainers.items():
            with switched(name, on):
                begun = time.perf_counter()
                trainer.epoch(some)
                best[on] = min(best[on], (time.perf_counter() - begun) / shape.steps_on_gpu)
    off, on = (round(1e6 * best[way], 2) for way in (False, True))
    return {"off_us": off, "on_us": on, "ratio": round(best[True] / best[False], 3)}
