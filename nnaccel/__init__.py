"""Feed-forward neural networks on the Python Array API, from NumPy to CUDA.

Public names are loaded when first used, so that `import nnaccel` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors: the names of _PUBLIC, a test compares the two
    from nnaccel.activations import Activation as Activation
    from nnaccel.checks import check_gradients as check_gradients
    from nnaccel.data import class_weights as class_weights
    from nnaccel.devices import Device as Device
    from nnaccel.devices import select as select
    from nnaccel.devices import to_host as to_host
    from nnaccel.estimators import MLPClassifier as MLPClassifier
    from nnaccel.estimators import MLPRegressor as MLPRegressor
    from nnaccel.gradients import GradientCheck as GradientCheck
    from nnaccel.layers import Dense as Dense
    from nnaccel.layers import Dropout as Dropout
    from nnaccel.layers import LayerNorm as LayerNorm
    from nnaccel.layers import Residual as Residual
    from nnaccel.losses import Loss as Loss
    from nnaccel.models import Fit as Fit
    from nnaccel.models import Model as Model
    from nnaccel.network import Network as Network
    from nnaccel.network import mlp as mlp
    from nnaccel.optimizers import Optimizer as Optimizer
    from nnaccel.recipes import Settings as Settings
    from nnaccel.sources import read as read
    from nnaccel.training import EarlyStopping as EarlyStopping
    from nnaccel.training import Epoch as Epoch
    from nnaccel.training import initialize as initialize
    from nnaccel.training import predict as predict
    from nnaccel.training import train as train

__version__ = "0.1.0"

# Public name -> the module that defines it. The modules themselves are public too.
_PUBLIC = {
    "Activation": "activations",
    "check_gradients": "checks",
    "class_weights": "data",
    "Dense": "layers",
    "Device": "devices",
    "Dropout": "layers",
    "EarlyStopping": "training",
    "Epoch": "training",
    "Fit": "models",
    "GradientCheck": "gradients",
    "initialize": "training",
    "LayerNorm": "layers",
    "Loss": "losses",
    "mlp": "network",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "Model": "models",
    "Network": "network",
    "Optimizer": "optimizers",
    "predict": "training",
    "read": "sources",
    "Residual": "layers",
    "select": "devices",
    "Settings": "recipes",
    "to_host": "devices",
    "train": "training",
}

# Modules that are public without a name above.
_MODULES = {
    *_PUBLIC.values(),
    *("checkpoint", "datasets", "features", "initializers", "metrics"),
    *("schedules", "tables", "targets"),
}

__all__ = sorted({*_PUBLIC, *_MODULES, "__version__"})  # pyright: ignore


def __getattr__(name: str) -> Any:
    """Import what is asked for, once (PEP 562)."""
    if name in _PUBLIC:
        value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
