"""Gradients that are written where they belong: into views of one flat vector.

For the libraries whose products can write into a given array. A layer's gradients are known by
its first parameter array, since both are views at the same place of their vector.
"""

from collections.abc import Iterator
from typing import Any


def homes(tree: Any, grads: Any) -> Iterator[tuple[int, Any]]:
    """(id of the first array, gradients) of each layer in a tree of parameters."""
    if tree and not isinstance(tree[0], tuple):
        yield id(tree[0]), grads
    else:
        for branch, its_grads in zip(tree, grads, strict=True):
            yield from homes(branch, its_grads)


def bring_home(arrays: Any, homes: Any) -> None:
    """Copies the arrays of a tree into those of the other, but for arrays that are in both."""
    for array, home in zip(arrays, homes, strict=True):
        if isinstance(array, tuple):
            bring_home(array, home)
        elif array is not home:
            home[...] = array
