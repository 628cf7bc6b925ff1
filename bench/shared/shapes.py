"""The training problems of all contestants: the same examples, order and initial parameters."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nnaccel.training.benchmark import SHAPES, Shape, examples

LEARNING_RATE = 1e-3

# Beside the four:
TABLE = Shape((64, 256, 128, 64, 2), 256)  # a table of 64 encoded columns
BINARY = Shape((2, 4, 1), 400)  # two classes by one output
LARGE = Shape((4096,) * 5, 8192)  # large enough for a GPU
TINY = (Shape((2, 4, 1), 16), Shape((8, 16, 4), 16))  # for rehearsals

__all__ = ["LEARNING_RATE", "SHAPES", "TABLE", "Problem", "Shape", "gpu_shapes", "problem"]


def gpu_shapes(rehearse: bool) -> tuple[Shape, ...]:
    """The shapes of `gpu.py`; the last one needs gigabytes."""
    return TINY if rehearse else (*SHAPES, BINARY, LARGE)


class Problem(NamedTuple):
    """Examples, the order in which an epoch visits them, and initial parameters."""

    shape: Shape
    X: np.ndarray  # (N, D) float32
    Y: np.ndarray  # (N,) int64 classes
    order: np.ndarray  # (steps, batch) int64
    weights: list[np.ndarray]  # W (D, H) of each layer, float32
    biases: list[np.ndarray]  # b (H,)


def problem(shape: Shape, seed: int = 0) -> Problem:
    """The problem of that shape, with He's initial weights."""
    X, Y, order = examples(shape, seed)
    rng, pairs = np.random.default_rng(seed + 1), list(pairwise(shape.sizes))
    weights = [
        rng.standard_normal((D, H), dtype=np.float32) * np.float32((2 / D) ** 0.5) for D, H in pairs
    ]
    biases = [np.zeros(H, np.float32) for _, H in pairs]
    return Problem(shape, X, Y, order.reshape(shape.steps, shape.batch), weights, biases)
