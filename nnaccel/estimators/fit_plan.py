"""The plan of a fit: the network, the device, and the examples."""

from typing import Any, NamedTuple

import numpy as np

from nnaccel.devices.device import Device
from nnaccel.estimators.array_input import take
from nnaccel.estimators.example_weights import Weights, penalty
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network
from nnaccel.training.data import Data, HostData, put

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


class FitPlan(NamedTuple):
    """The decisions of a fit that do not depend on the numbers in its data."""

    network: Network
    loss: Loss
    where: Device
    dtype: str
    kernels: bool | str = True

    def put(self, X: Any, Y: Any, weights: Weights | None) -> Data | HostData:
        """The examples, checked, on the device."""
        values = None if weights is None else weights.values
        return put(self.network, self.loss, self.where, self.dtype, X, Y, values)

    def l2(self, alpha: float, examples: int, weights: Weights | None) -> float:
        """The penalty of a loss over `examples` examples, by scikit-learn's meaning of `alpha`."""
        return penalty(alpha, examples, 1.0 if weights is None else weights.mean(), self.dtype)


class Examples(NamedTuple):
    """Examples that scikit-learn has validated."""

    X: Any
    codes: np.ndarray  # codes of the targets, on the host; see `MultilayerPerceptron._encode`
    weights: Weights | None

    def rows(self, numbers: np.ndarray) -> "Examples":
        """The examples with those numbers."""
        weights = None if self.weights is None else self.weights.rows(numbers)
        return Examples(take(self.X, numbers), self.codes[numbers], weights)
