"""The four networks that everything is measured on, their data, and what a step of them costs."""

from typing import NamedTuple

import numpy as np

LEARNING_RATE = 1e-3


class Shape(NamedTuple):
    """A network by its layer sizes, and the minibatch it is trained with."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """Such as 784-512-512-10x256."""
        return f"{'-'.join(map(str, self.sizes))}x{self.batch}"

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(rows, inner, columns) of the matrix products of a step, forward and then backward."""
        layers = list(zip(self.sizes, self.sizes[1:], strict=False))
        forward = [(self.batch, D, H) for D, H in layers]
        dW = [(D, self.batch, H) for D, H in layers]
        dX = [(self.batch, H, D) for D, H in layers[1:]]
        return forward + dW + dX

    @property
    def flops(self) -> int:
        """Of these products: what a step cannot do without."""
        return sum(2 * m * k * n for m, k, n in self.products)

    @property
    def n_params(self) -> int:
        return sum(D * H + H for D, H in zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def steps(self) -> int:
        """Of an epoch: enough to forget where one begins, few enough for the data to stay small."""
        return int(np.clip(5e8 // self.flops, 8, 64))


SHAPES = (
    Shape((2, 4, 2), 400),
    Shape((64, 100, 10), 200),
    Shape((784, 512, 512, 10), 256),
    Shape((1024, 2048, 2048, 100), 1024),
)


class Problem(NamedTuple):
    """Examples, the order in which an epoch visits them, and initial parameters, one for all."""

    shape: Shape
    X: np.ndarray  # (N, D) float32
    Y: np.ndarray  # (N,) int64 classes
    order: np.ndarray  # (steps, batch) int64
    weights: list[np.ndarray]  # W (D, H) of each layer, float32
    biases: list[np.ndarray]  # b (H,)


def problem(shape: Shape, seed: int = 0) -> Problem:
    """Gaussian examples whose class a random linear map decides, so that there is much to learn."""
    rng = np.random.default_rng(seed)
    N, D, K = shape.batch * shape.steps, shape.sizes[0], shape.sizes[-1]
    X = rng.standard_normal((N, D), dtype=np.float32)
    Y = np.argmax(X @ rng.standard_normal((D, K), dtype=np.float32), axis=1)
    order = rng.permutation(N).reshape(shape.steps, shape.batch)
    pairs = list(zip(shape.sizes, shape.sizes[1:], strict=False))
    weights = [
        rng.standard_normal((D, H), dtype=np.float32) * np.float32((2 / D) ** 0.5) for D, H in pairs
    ]
    return Problem(shape, X, Y, order, weights, [np.zeros(H, np.float32) for _, H in pairs])
