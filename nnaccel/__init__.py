"""Feed-forward neural networks on the Python Array API, from NumPy to CUDA.

Public names are loaded when first used, so that `import nnaccel` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors: the names of _PUBLIC, a test compares the two
    from nnaccel.devices.device import Device as Device
    from nnaccel.devices.device import select as select
    from nnaccel.devices.device import to_host as to_host
    from nnaccel.estimators.classifier import MLPClassifier as MLPClassifier
    from nnaccel.estimators.displays import LossCurveDisplay as LossCurveDisplay
    from nnaccel.estimators.regressor import MLPRegressor as MLPRegressor
    from nnaccel.estimators.table import TableClassifier as TableClassifier
    from nnaccel.estimators.table import TableEncoder as TableEncoder
    from nnaccel.estimators.table import TableRegressor as TableRegressor
    from nnaccel.maths.activations import Activation as Activation
    from nnaccel.maths.gradient_check import GradientCheck as GradientCheck
    from nnaccel.maths.layers import BatchNorm as BatchNorm
    from nnaccel.maths.layers import Dense as Dense
    from nnaccel.maths.layers import Dropout as Dropout
    from nnaccel.maths.layers import LayerNorm as LayerNorm
    from nnaccel.maths.layers import PiecewiseLinear as PiecewiseLinear
    from nnaccel.maths.layers import Residual as Residual
    from nnaccel.maths.losses import Loss as Loss
    from nnaccel.maths.network import Network as Network
    from nnaccel.maths.network import mlp as mlp
    from nnaccel.maths.optimizers import Optimizer as Optimizer
    from nnaccel.reporting.page import report as report
    from nnaccel.tabular.fit import Fit as Fit
    from nnaccel.tabular.model import Model as Model
    from nnaccel.tabular.settings import Settings as Settings
    from nnaccel.tabular.sources import read as read
    from nnaccel.tabular.streamed.examples import stream as stream
    from nnaccel.tabular.trials import Rung as Rung
    from nnaccel.tabular.tuning import tune as tune
    from nnaccel.training.data import class_weights as class_weights
    from nnaccel.training.early_stopping import EarlyStopping as EarlyStopping
    from nnaccel.training.epoch import Epoch as Epoch
    from nnaccel.training.gradcheck import check_gradients as check_gradients
    from nnaccel.training.gradients import value_and_grad as value_and_grad
    from nnaccel.training.loop import train as train
    from nnaccel.training.prediction import predict as predict
    from nnaccel.training.step import initialize as initialize

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "Activation": "maths.activations",
    "BatchNorm": "maths.layers",
    "check_gradients": "training.gradcheck",
    "class_weights": "training.data",
    "Dense": "maths.layers",
    "Device": "devices.device",
    "Dropout": "maths.layers",
    "EarlyStopping": "training.early_stopping",
    "Epoch": "training.epoch",
    "Fit": "tabular.fit",
    "GradientCheck": "maths.gradient_check",
    "initialize": "training.step",
    "LayerNorm": "maths.layers",
    "Loss": "maths.losses",
    "LossCurveDisplay": "estimators.displays",
    "mlp": "maths.network",
    "MLPClassifier": "estimators.classifier",
    "MLPRegressor": "estimators.regressor",
    "Model": "tabular.model",
    "Network": "maths.network",
    "Optimizer": "maths.optimizers",
    "predict": "training.prediction",
    "read": "tabular.sources",
    "PiecewiseLinear": "maths.layers",
    "report": "reporting.page",
    "Residual": "maths.layers",
    "Rung": "tabular.trials",
    "select": "devices.device",
    "Settings": "tabular.settings",
    "stream": "tabular.streamed.examples",
    "TableClassifier": "estimators.table",
    "TableEncoder": "estimators.table",
    "TableRegressor": "estimators.table",
    "to_host": "devices.device",
    "train": "training.loop",
    "tune": "tabular.tuning",
    "value_and_grad": "training.gradients",
}

# Public modules, by the short name that users write: nnaccel.optimizers.adam.
_MODULES = {
    "activations": "maths.activations",
    "checkpoint": "training.checkpoint",
    "model_file": "training.model_file",
    "data": "training.data",
    "datasets": "tabular.datasets",
    "devices": "devices",
    "estimators": "estimators",
    "features": "tabular.features",
    "initializers": "maths.initializers",
    "layers": "maths.layers",
    "logs": "training.logs",
    "losses": "maths.losses",
    "metrics": "maths.metrics",
    "network": "maths.network",
    "optimizers": "maths.optimizers",
    "precision": "maths.precision",
    "schedules": "maths.schedules",
    "space": "tabular.space",
    "tables": "tabular.tables",
    "targets": "tabular.targets",
    "training": "training",
}

__all__ = sorted({*_PUBLIC, *_MODULES, "__version__"})  # pyright: ignore


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name in _PUBLIC:
        value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{_MODULES[name]}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
