"""What can be asked of `kernels.cu`: its kernels, and their types by the names of NumPy's.

Without CuPy, so that all of it can be compiled where there is none.
"""

from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cu")

# The numbers of `kernels.cu`: threads in a block, lanes in a warp.
THREADS, LANES = 256, 32

TYPES = {"float32": "float", "float64": "double"}
HALF = "Bf16"  # bfloat16, which arrays of the host hold as 16-bit integers
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
BY_SIGN = ("Identity", "Relu", "LeakyRelu")  # whose derivatives read no more than the sign of A
PLAIN = [
    *("softmax_cross_entropy", "l2_penalty", "dropout", "gradient_descent", "momentum"),
    *("nesterov", "rmsprop", "adam", "shrink", "clip_factor", "clip", "begin", "tick"),
]

# How the kernels know an integer type: by its size, negative if it is signed.
KINDS = {
    f"{sign}int{8 * size}": size if sign else -size for sign in ("", "u") for size in (1, 2, 4, 8)
}


def expressions() -> Iterator[str]:
    """Every kernel that can be asked for, as C++ writes its name."""
    for T in TYPES.values():
        yield from (f"minibatch<{T}, {S}>" for S in CASTS.values())
        for G in FUNCTORS.values():
            yield f"activate<{T}, {G}>"
            yield from (f"{name}<{T}, {T}, {G}>" for name in ("narrow", "derive"))
        yield from (f"{name}<{T}>" for name in PLAIN)
        yield from (f"small_epoch<{T}, {V}>" for V in (1, 2 if T == "double" else 4))
    yield f"halve<{TYPES['float32']}>"
    yield from (f"narrow<{TYPES['float32']}, {HALF}, {G}>" for G in FUNCTORS.values())
    yield from (f"derive<{TYPES['float32']}, {HALF}, {G}>" for G in BY_SIGN)
