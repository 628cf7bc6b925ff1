"""Activation functions g, each beside its derivative, and the table of their names.

Every `forward` maps logits Z of any shape to A of that shape. Every `vjp` turns the gradient dA
of the loss in A into the gradient in Z, dZ = dA * g'(Z), and says g' with A where that is cheaper.
Not checked: shapes and dtypes; Z must be real and floating.

To add one, write the two functions and a row of `ACTIVATIONS`; the tests then check its
derivative, its leading axes and its agreement on every array library without another line.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from nnaccel.arguments import check_options, find
from nnaccel.maths.hyper_parameters import AMOUNT, UP_TO_ONE, Range, check_ranges
from nnaccel.typing import Array, Namespace, Options, freeze


class Activation(NamedTuple):
    """An activation: `forward(Z, *, xp) -> A` and `vjp(dA, Z, A, *, xp) -> dZ`.

    Where `reads_Z` is false, `vjp` ignores Z, so that only A is kept and A may overwrite Z.
    `options` are the parameters of the function, such as a slope, bound into both callables.
    `initializer` names the customary draw of weights before it: He for the ReLU family, LeCun for
    SELU, Glorot for the rest.
    """

    name: str
    forward: Callable[..., Array]
    vjp: Callable[..., Array]
    reads_Z: bool = True
    options: Options = ()
    initializer: str = "glorot_uniform"

    def with_options(self, **options: float) -> "Activation":
        """The same activation with other parameters: ``leaky_relu.with_options(slope=0.2)``.

        Raises TypeError when the activation has no parameter of that name, ValueError for a value
        out of its range.
        """
        check_options(f"activation {self.name!r}", self.forward, options)
        check_ranges(RANGES, dict(freeze(options)))
        return _bind(self.plain(), freeze(dict(self.options) | options))

    def plain(self) -> "Activation":
        """The same activation with its default parameters."""
        forward, vjp = (getattr(f, "func", f) for f in (self.forward, self.vjp))
        return self._replace(forward=forward, vjp=vjp, options=())


@cache
def _bind(plain: Activation, options: Options) -> Activation:
    """Cached, so that equal parameters give equal activations, and so equal networks."""
    forward, vjp = (partial(f, **dict(options)) for f in (plain.forward, plain.vjp))
    return plain._replace(forward=forward, vjp=vjp, options=options)


def identity(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = Z, for outputs and for linear layers."""
    return Z


def identity_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA."""
    return dA


def sigmoid(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = 1 / (1 + exp(-Z)), written with tanh so that no exponential overflows."""
    return 0.5 * xp.tanh(0.5 * Z) + 0.5


def sigmoid_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA A (1 - A)."""
    return dA * (A * (1.0 - A))


def tanh(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = tanh(Z)."""
    return xp.tanh(Z)


def tanh_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA (1 - A^2)."""
    return dA * (1.0 - A * A)


def relu(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = max(0, Z)."""
    return xp.maximum(Z, xp.zeros_like(Z))


def relu_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA [A > 0]; the derivative at 0, where there is none, is taken as 0."""
    return dA * xp.astype(A > 0, dA.dtype)


def leaky_relu(Z: Array, *, xp: Namespace, slope: float = 0.01) -> Array:
    """g(Z) = max(slope Z, Z), 0 <= slope <= 1.

    Source: Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic
    models" (2013), eq. 2.
    """
    return xp.maximum(slope * Z, Z)


def leaky_relu_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace, slope: float = 0.01) -> Array:
    """dZ = dA where A > 0, else slope dA."""
    return dA * (slope + (1.0 - slope) * xp.astype(A > 0, dA.dtype))


def softplus(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = log(1 + exp(Z)), without overflow."""
    return xp.logaddexp(Z, xp.zeros_like(Z))


def softplus_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA sigmoid(Z) = dA (1 - exp(-A))."""
    return dA * -xp.expm1(-A)


def elu(Z: Array, *, xp: Namespace, alpha: float = 1.0) -> Array:
    """g(Z) = Z where Z > 0, else alpha (exp(Z) - 1).

    Source: Clevert, Unterthiner, Hochreiter, arXiv:1511.07289, eq. 16.
    """
    zero = xp.zeros_like(Z)
    return xp.maximum(Z, zero) + alpha * xp.expm1(xp.minimum(Z, zero))


def elu_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace, alpha: float = 1.0) -> Array:
    """dZ = dA where A > 0, else dA (A + alpha)."""
    positive = xp.astype(A > 0, dA.dtype)
    return dA * (positive + (1.0 - positive) * (A + alpha))


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def selu(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = scale ELU(Z; alpha), with the constants that keep mean 0 and variance 1.

    Source: Klambauer et al., arXiv:1706.02515, eq. 2 and section 2.
    """
    return SELU_SCALE * elu(Z, xp=xp, alpha=SELU_ALPHA)


def selu_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = scale dA where A > 0, else dA (A + scale alpha)."""
    positive = xp.astype(A > 0, dA.dtype)
    return dA * (SELU_SCALE * positive + (1.0 - positive) * (A + SELU_SCALE * SELU_ALPHA))


GELU_SCALE = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715


def gelu(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = Z/2 (1 + tanh(sqrt(2/pi) (Z + 0.044715 Z^3))): the tanh form of GELU.

    `gelu_exact`, with the normal distribution, differs by at most 5e-4 and takes longer.
    Source: Hendrycks, Gimpel, arXiv:1606.08415, section 2.
    """
    return 0.5 * Z * (1.0 + xp.tanh(GELU_SCALE * (Z + GELU_CUBIC * (Z * Z * Z))))


def gelu_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA (1 + t + Z (1 - t^2) u') / 2 with t = tanh(u), u as in `gelu`."""
    square = Z * Z
    t = xp.tanh(GELU_SCALE * (Z + GELU_CUBIC * (Z * square)))
    slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * square)
    return dA * (0.5 * (1.0 + t + Z * (1.0 - t * t) * slope))


# (1 + sqrt(2) z) exp(z^2 / 2) erfc(z / sqrt(2)) for z >= 0, as a polynomial in
# (z - 3 sqrt(2)) / (z + 3 sqrt(2)), highest power first: its Chebyshev series of degree 22.
SCALED_TAIL = (
    -3.1813541434969274e-09,
    -7.641962892589975e-09,
    2.7843881265502222e-08,
    8.765881411730558e-08,
    -1.205414228648938e-07,
    -5.963983625522741e-07,
    3.3669790806407595e-07,
    3.454294770277738e-06,
    -7.187883834404266e-07,
    -2.0089997833284275e-05,
    4.94412434222366e-06,
    0.00012509531076254534,
    -0.00010515831297813128,
    -0.0007798312797290158,
    0.0018886900977441495,
    0.0025293916672051724,
    -0.023770514891530075,
    0.06830802735638397,
    -0.11927366341676002,
    0.12964515870228346,
    -0.04756229435342038,
    -0.13562110612457576,
    1.2530080582697296,
)


def normal_cdf(Z: Array, density: Array, *, xp: Namespace) -> Array:
    """Phi(Z), the probability that a standard normal variable is below Z, in float64 to 5e-16.

    density: exp(-Z^2 / 2). The Array API standard has no erf; with `z = |Z|` the smaller tail is
    density P / (2 + 2 sqrt(2) z), P the polynomial above, so that it keeps its digits.
    """
    z = xp.abs(Z)
    t = (z - 3.0 * math.sqrt(2.0)) / (z + 3.0 * math.sqrt(2.0))
    P = SCALED_TAIL[0] * t + SCALED_TAIL[1]
    for coefficient in SCALED_TAIL[2:]:
        P = P * t + coefficient
    tail = density * P / (2.0 + 2.0 * math.sqrt(2.0) * z)
    positive = xp.astype(Z > 0, Z.dtype)
    return positive + (1.0 - 2.0 * positive) * tail


def gelu_exact(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = Z Phi(Z), Phi the normal distribution: GELU by its definition, without tanh.

    Source: Hendrycks, Gimpel, arXiv:1606.08415, section 2.
    """
    return Z * normal_cdf(Z, xp.exp(-0.5 * (Z * Z)), xp=xp)


def gelu_exact_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA (Phi(Z) + Z exp(-Z^2 / 2) / sqrt(2 pi))."""
    density = xp.exp(-0.5 * (Z * Z))
    return dA * (normal_cdf(Z, density, xp=xp) + Z * density / math.sqrt(2.0 * math.pi))


def silu(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = Z sigmoid(Z), also known as swish. Source: arXiv:1702.03118, eq. 5."""
    return Z * sigmoid(Z, xp=xp)


def silu_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA (s + A (1 - s)), s = sigmoid(Z)."""
    s = sigmoid(Z, xp=xp)
    return dA * (s + A * (1.0 - s))


def mish(Z: Array, *, xp: Namespace) -> Array:
    """g(Z) = Z tanh(softplus(Z)). Source: Misra, arXiv:1908.08681, eq. 1."""
    return Z * xp.tanh(softplus(Z, xp=xp))


def mish_vjp(dA: Array, Z: Array, A: Array, *, xp: Namespace) -> Array:
    """dZ = dA (t + Z (1 - t^2) sigmoid(Z)), t = tanh(softplus(Z))."""
    t = xp.tanh(softplus(Z, xp=xp))
    return dA * (t + Z * (1.0 - t * t) * sigmoid(Z, xp=xp))


# What the parameters of these activations may be: A has the sign of Z, which derivatives read.
RANGES: dict[str, Range] = {"slope": UP_TO_ONE, "alpha": AMOUNT}

HE = "he_uniform"

ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("identity", identity, identity_vjp, reads_Z=False),
        Activation("sigmoid", sigmoid, sigmoid_vjp, reads_Z=False),
        Activation("tanh", tanh, tanh_vjp, reads_Z=False),
        Activation("relu", relu, relu_vjp, reads_Z=False, initializer=HE),
        Activation("leaky_relu", leaky_relu, leaky_relu_vjp, reads_Z=False, initializer=HE),
        Activation("softplus", softplus, softplus_vjp, reads_Z=False),
        Activation("elu", elu, elu_vjp, reads_Z=False, initializer=HE),
        Activation("selu", selu, selu_vjp, reads_Z=False, initializer="lecun_normal"),
        Activation("gelu", gelu, gelu_vjp, initializer=HE),
        Activation("silu", silu, silu_vjp, initializer=HE),
        Activation("mish", mish, mish_vjp, initializer=HE),
        Activation("gelu_exact", gelu_exact, gelu_exact_vjp, initializer=HE),
    )
}


def get(activation: str | Activation, **options: Any) -> Activation:
    """The activation of that name, or the one given, with its parameters set.

    Raises ValueError for an unknown name, with the closest known one, and for a parameter out of
    its range, TypeError for an unknown parameter.
    """
    if not isinstance(activation, Activation):
        activation = find("activation", activation, ACTIVATIONS)
    return activation.with_options(**options) if options else activation
