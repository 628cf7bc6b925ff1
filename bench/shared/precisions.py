"""The precisions of matrix products in which libraries are compared, and their settings in each
library.

Parameters, gradients, moments and the loss are float32 in all of them. No default is used, since
PyTorch's default for float32 products on a GPU is IEEE arithmetic, and JAX's is TF32.
"""

from typing import Any, NamedTuple


class Precision(NamedTuple):
    """A precision of matrix products, with the setting of each library."""

    meaning: str
    nnaccel: dict[str, Any]  # options of `nnaccel.training.benchmark.Trainer`
    torch: str  # for torch.set_float32_matmul_precision
    jax: str  # for jax_default_matmul_precision
    bfloat16: bool  # PyTorch under autocast; JAX with weights and activations cast in the loss
    tolerance: float  # relative, of losses that should be equal
    error: float  # the largest relative error of a product of Gaussian matrices in this precision


PRECISIONS = {
    "ieee": Precision("IEEE float32 products", {}, "highest", "highest", False, 0.02, 1e-5),
    "tf32": Precision(
        "TF32 products", {"precision": "tf32"}, "high", "tensorfloat32", False, 0.02, 2e-3
    ),
    "bf16": Precision(
        "bfloat16 products and activations, float32 master weights",
        {"precision": "bf16"},
        "highest",
        # This setting is for the products that stay float32: on a GPU, JAX's "bfloat16" would mean
        # TF32.
        "highest",
        True,
        0.05,
        2e-2,
    ),
}


def torch_precision(name: str | None) -> bool:
    """Sets the precision of PyTorch; None: keeps it. Returns whether the caller must use autocast
    to bfloat16."""
    import torch

    if name is None:
        return False
    torch.set_float32_matmul_precision(PRECISIONS[name].torch)
    return PRECISIONS[name].bfloat16


def jax_precision(name: str | None) -> Any:
    """Sets the precision of JAX; None: keeps it. Returns the dtype of the computation, or None for
    that of the data."""
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
