"""Feed-forward neural networks on the Python Array API, from NumPy to CUDA.

Public names are loaded when first used, so that `import nnaccel` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors: the names of _PUBLIC, a test compares the two
    from nnaccel.devices import Device as Device
    from nnaccel.estimators import MLPClassifier as MLPClassifier
    from nnaccel.estimators import MLPRegressor as MLPRegressor

__version__ = "0.1.0"

# Public name -> the module that defines it. The modules themselves are public too.
_PUBLIC = {
    "Device": "devices",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
}

__all__ = sorted({*_PUBLIC, *_PUBLIC.values(), "__version__"})  # pyright: ignore


def __getattr__(name: str) -> Any:
    """Import what is asked for, once (PEP 562)."""
    if name in _PUBLIC:
        value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    elif name in _PUBLIC.values():
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
