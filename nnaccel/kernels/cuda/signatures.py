"""The template instances of the kernels in this folder's `.cuh` files.

This module does not import CuPy, so that all kernels can be compiled without it.
"""

from collections.abc import Iterator
from functools import lru_cache

from nnaccel.kernels.dense_plan import activation_of
from nnaccel.maths.activations import Activation

# Constants of `memory.cuh`: threads in a block, lanes in a warp.
THREADS, LANES = 256, 32
HELD = 64  # bytes of a row that a thread of `wide_cross_entropy` holds, as in `loss.cuh`

TYPES = {"float32": "float", "float64": "double"}
BFLOAT16 = "Bf16"  # arrays of 16-bit unsigned integers in Python
CASTS = {
    "bool": "bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "long long",
    "uint64": "unsigned long long",
    **TYPES,
}
FUNCTORS = {
    "identity": "Identity",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "softplus": "Softplus",
    "elu": "Elu",
    "selu": "Selu",
    "gelu": "Gelu",
    "silu": "Silu",
    "mish": "Mish",
}
READS_Z = ("gelu", "silu", "mish")  # activations whose derivatives read Z
READS_SIGN = ("Identity", "Relu", "LeakyRelu")  # functors whose derivatives read only the sign of A
PLAIN = [
    *(
        "softmax_cross_entropy",
        "wide_cross_entropy",
        "l2_penalty",
        "dropout",
        "encode",
        "gradient_descent",
        "momentum",
    ),
    *("nesterov", "rmsprop", "adam", "shrink_weights", "clip_factor", "clip", "begin", "tick"),
]

# The code of an integer type for `class_of` in `loss.cuh`: its size in bytes, negative if signed.
INTEGERS = {
    f"{sign}int{8 * size}": size if sign else -size for sign in ("", "u") for size in (1, 2, 4, 8)
}


@lru_cache(maxsize=64)
def functor(activation: Activation) -> tuple[str, float] | None:
    """The functor of `activations.cuh` that computes an activation, and its parameter.

    None for an activation with other functions than the library's, even under the same name.
    """
    found = activation_of(activation)
    if found is None or found[0] not in FUNCTORS:
        return None
    if activation.reads_Z != (found[0] in READS_Z):
        return None
    return FUNCTORS[found[0]], found[1]


def expressions() -> Iterator[str]:
    """The C++ names of all kernel instances that this package can request."""
    for T in TYPES.values():
        yield from (f"minibatch<{T}, {S}>" for S in CASTS.values())
        for G in FUNCTORS.values():
            yield f"bias_activation<{T}, {G}>"
            yield from (f"{name}<{T}, {T}, {G}>" for name in ("narrow_dense", "activation_vjp"))
        yield from (f"{name}<{T}>" for name in PLAIN)
        yield f"dense_cross_entropy<{T}, {T}>"
        yield from (f"small_epoch<{T}, {V}>" for V in (1, 2 if T == "double" else 4))
    yield f"to_bf16<{TYPES['float32']}>"
    yield f"dense_cross_entropy<{TYPES['float32']}, {BFLOAT16}>"
    yield from (f"narrow_dense<{TYPES['float32']}, {BFLOAT16}, {G}>" for G in FUNCTORS.values())
    yield from (f"activation_vjp<{TYPES['float32']}, {BFLOAT16}, {G}>" for G in READS_SIGN)
