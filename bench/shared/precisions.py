"""The precisions of the products in which libraries are compared, and how each is told.

Parameters, gradients, moments and the loss are float32 in all of them. By itself PyTorch computes
float32 products in IEEE arithmetic on a GPU, JAX in TF32: nothing here is left to a default.
"""

from typing import Any, NamedTuple


class Precision(NamedTuple):
    """One arithmetic of matrix products, in the words of each library."""

    meaning: str
    nnaccel: dict[str, Any]  # options of `nnaccel.training.benchmark.Trainer`
    torch: str  # for torch.set_float32_matmul_precision
    jax: str  # for jax_default_matmul_precision
    bfloat16: bool  # PyTorch under autocast; JAX with weights and activations cast in the loss
    tolerance: float  # relative, of losses that should be equal
    error: float  # the largest relative error of a product of Gaussian matrices to be this precise


PRECISIONS = {
    "ieee": Precision("IEEE float32 products", {}, "highest", "highest", False, 0.02, 1e-5),
    "tf32": Precision(
        "TF32 products", {"precision": "tf32"}, "high", "tensorfloat32", False, 0.02, 2e-3
    ),
    "bf16": Precision(
        "bfloat16 products and activations, float32 master weights",
        {"precision": "bf16"},
        "highest",
        # This is about what is left in float32: on a GPU, JAX's "bfloat16" would mean TF32.
        "highest",
        True,
        0.05,
        2e-2,
    ),
}


def torch_precision(name: str | None) -> bool:
    """Sets PyTorch to a precision, None: leaves it; whether autocast to bfloat16 is left to do."""
    import torch

    if name is None:
        return False
    torch.set_float32_matmul_precision(PRECISIONS[name].torch)
    return PRECISIONS[name].bfloat16


def jax_precision(name: str | None) -> Any:
    """Sets JAX to a precision, None: leaves it; the dtype to compute in, None: that of the data."""
    import jax
    import jax.numpy as jnp

    if name is None:
        return None
    jax.config.update("jax_default_matmul_precision", PRECISIONS[name].jax)
    return jnp.bfloat16 if PRECISIONS[name].bfloat16 else None


def jax_device(device: str) -> Any:
    """The first of JAX's devices "cpu" or "cuda"."""
    import jax

    return jax.devices("gpu" if device == "cuda" else device)[0]
