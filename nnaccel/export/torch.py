"""The network of a model as PyTorch modules, for further training or as a part of another network.

It is the network alone: its inputs are encoded rows (N, D) of `Features.transform`, its outputs
logits, or numbers in standard deviations. The file holds torch's own modules and no code of
nnaccel.
"""

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.devices.device import to_host
from nnaccel.maths import activations
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers import BatchNorm, Dense, Dropout, LayerNorm, PiecewiseLinear, Residual
from nnaccel.maths.network import Network, layout, views
from nnaccel.tabular.tables import import_extra
from nnaccel.typing import Array

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model

# Activation -> its module in torch.nn, and options of the module.
MODULES: dict[Callable[..., Any], Callable[..., Any]] = {
    activations.sigmoid: lambda nn: nn.Sigmoid(),
    activations.tanh: lambda nn: nn.Tanh(),
    activations.relu: lambda nn: nn.ReLU(),
    activations.leaky_relu: lambda nn, slope=0.01: nn.LeakyReLU(slope),
    activations.softplus: lambda nn: nn.Softplus(threshold=40.0),
    activations.elu: lambda nn, alpha=1.0: nn.ELU(alpha),
    activations.selu: lambda nn: nn.SELU(),
    activations.gelu: lambda nn: nn.GELU(approximate="tanh"),
    activations.silu: lambda nn: nn.SiLU(),
    activations.mish: lambda nn: nn.Mish(),
    activations.gelu_exact: lambda nn: nn.GELU(),
}


def torch_file(model: "Model") -> bytes:
    """The modules of a model as `torch.save` writes them; read them with `torch.load(path,
    weights_only=False)`. A model of K networks is a ModuleList of K Sequentials."""
    torch, content = import_extra("torch"), BytesIO()
    params = to_host(model.params)
    each = [sequential(model.network, own) for own in np.atleast_2d(params)]
    torch.save(each[0] if params.ndim == 1 else torch.nn.ModuleList(each), content)
    return content.getvalue()


def sequential(network: Network, params: Array) -> Any:
    """A network with parameters (P,) as a `torch.nn.Sequential`, in evaluation mode.

    Raises ValueError for a layer or an activation that is not one of the library's;
    ModuleNotFoundError without the package torch.
    """
    host = to_host(params)
    with np.errstate(all="ignore"):
        arrays = views(host, layout(network), xp=np)
    return _chain(network.layers, arrays, network.n_inputs, host.dtype.name).eval()


def _chain(layers: Any, arrays: Any, D: int, dtype: str, where: str = "layer") -> Any:
    nn, found = import_extra("torch.nn"), []
    for i, (layer, own) in enumerate(zip(layers, arrays, strict=True)):
        found += _modules(layer, own, D, dtype, f"{where} {i}")
        D = layer.width(D)
    return nn.Sequential(*found)


def _modules(layer: Any, arrays: Any, D: int, dtype: str, where: str) -> list[Any]:
    """The modules of one layer with D inputs."""
    torch = import_extra("torch")
    nn, of = torch.nn, {"dtype": getattr(torch, dtype)}
    match layer:
        case Dense():
            W, b = arrays
            linear = _filled(nn.Linear(D, layer.units, **of), weight=W.T, bias=b[0])
            return [linear, *_activation(layer.activation, where)]
        case Dropout():
            return [nn.Dropout(layer.rate)]
        case LayerNorm():
            gain, bias = arrays
            made = nn.LayerNorm(D, layer.epsilon, **of)
            return [_filled(made, weight=gain[0], bias=bias[0])]
        case BatchNorm():
            names = ("weight", "bias", "running_mean", "running_var")
            made = nn.BatchNorm1d(D, layer.epsilon, layer.momentum, **of)
            return [_filled(made, **{n: a[0] for n, a in zip(names, arrays, strict=True)})]
        case PiecewiseLinear():
            return [_piecewise_linear(layer, of["dtype"])]
        case Residual():
            return [_residual(_chain(layer.layers, arrays, D, dtype, where))]
    raise ValueError(
        f"{where}, {layer!r}, cannot be written for PyTorch, which has no module of it"
    )


def _activation(activation: Activation, where: str) -> list[Any]:
    plain = activation.plain().forward
    if plain is activations.identity:
        return []
    if plain not in MODULES:
        raise ValueError(
            f"{where}: the activation {activation.name!r} cannot be written for PyTorch, which has "
            "no module of it"
        )
    return [MODULES[plain](import_extra("torch.nn"), **dict(activation.options))]


def _filled(module: Any, **arrays: np.ndarray) -> Any:
    """The module with the given values in its parameters and buffers."""
    torch = import_extra("torch")
    values = {name: torch.tensor(array.copy()) for name, array in arrays.items()}
    module.load_state_dict({**module.state_dict(), **values})
    return module


# ---------------------------------------------------------------------------- layers of our own

# PyTorch has no modules for these. As graphs of torch.fx they contain their own code, so a file
# needs none of nnaccel's.


def _piecewise_linear(layer: PiecewiseLinear, dtype: Any) -> Any:
    torch, bins = import_extra("torch"), layer.bins

    class Encoding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("of", torch.tensor(bins.of, dtype=torch.int64))
            self.register_buffer("low", torch.tensor(bins.low, dtype=dtype))
            self.register_buffer("slope", torch.tensor(bins.slope, dtype=dtype))

        def forward(self, X: Any) -> Any:
            share = (X.index_select(-1, self.of) - self.low) * self.slope
            return torch.cat([X, share.clamp(0.0, 1.0)], -1)

    return import_extra("torch.fx").symbolic_trace(Encoding())


def _residual(chain: Any) -> Any:
    torch = import_extra("torch")

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = chain

        def forward(self, X: Any) -> Any:
            return X + self.chain(X)

    return import_extra("torch.fx").symbolic_trace(Sum())
