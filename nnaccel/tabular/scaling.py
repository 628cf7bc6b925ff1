"""Scaling of numbers: where they lie, how far they spread, and a bend for those far out."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nnaccel.typing import Array, Namespace

OUTLIER = 8.0  # standard deviations from the mean, which no well-behaved column shows
BEND = 20.0  # scaled numbers up to it stay as they are: a long tail keeps its resolution
NORMAL_QUARTILES = 1.349  # between the quartiles of a normal variable, in standard deviations
ROUNDING = 8 * np.finfo(float).eps  # of the mean: a spread below it is rounding
BLOCK = 1 << 21  # numbers worked on at once: 16 MB in float64


class Scale(NamedTuple):
    """Where the numbers of a column lie: z = (x - center) / scale, bent where some are far out.

    present: how many there are.   varies: whether they differ by more than rounding.
    """

    center: float
    scale: float
    bend: bool
    present: int
    varies: bool


def bend(z: Array, *, xp: Namespace) -> Array:
    """z as it is from -B to B, B = 20; beyond, B (1 + log(|z| / B)) with its sign.

    Smooth and rising everywhere: it keeps the order of large values, which grow without bound but
    slowly: one at a million is as one at 236.
    """
    far = xp.maximum(xp.abs(z) / BEND, xp.ones_like(z))
    return xp.where(far > 1, xp.sign(z) * (BEND * (1 + xp.log(far))), z)


def scales(read: Callable[[slice], np.ndarray], columns: int, rows: int) -> list[Scale]:
    """The scale of each column.   read: a part of them as float64 (n, rows), ours to overwrite.

    Mean and population standard deviation of the values present (not NaN), by two passes over data
    shifted by their first value: a constant column has a spread of exactly 0, and a large common
    offset costs no digits. A column with values more than 8 standard deviations out is measured by
    its median and quartiles, which they do not move, unless these coincide.
    """
    found = []
    for part in blocks(columns, rows):
        block = read(part)
        missing = np.isnan(block)
        present = rows - np.count_nonzero(missing, axis=1)
        first = block[np.arange(len(block)), np.argmin(missing, axis=1)]
        divisor = np.maximum(present, 1)
        block -= first[:, None]
        np.copyto(block, 0, where=missing)
        shift = np.sum(block, axis=1) / divisor
        block -= shift[:, None]
        np.copyto(block, 0, where=missing)
        scale = np.sqrt(np.vecdot(block, block) / divisor)
        center = first + shift
        varies = scale > ROUNDING * np.abs(center)
        far = np.max(np.abs(block), axis=1, initial=0) > OUTLIER * scale
        for i in range(len(block)):
            measured = Scale(
                float(center[i]), float(scale[i]), False, int(present[i]), bool(varies[i])
            )
            if far[i] and varies[i]:
                measured = by_quartiles(
                    read(slice(part.start + i, part.start + i + 1))[0], measured
                )
            found.append(measured)
    return found


def by_quartiles(values: np.ndarray, measured: Scale) -> Scale:
    """The scale of numbers with outliers, from the numbers themselves."""
    low, median, high = np.quantile(values[~np.isnan(values)], [0.25, 0.5, 0.75]).tolist()
    if high - low > ROUNDING * abs(median):
        return measured._replace(center=median, scale=(high - low) / NORMAL_QUARTILES, bend=True)
    return measured


def blocks(columns: int, rows: int) -> Iterator[slice]:
    """The columns in parts that are small enough to work on at once."""
    width = max(1, BLOCK // max(rows, 1))
    return (slice(at, min(at + width, columns)) for at in range(0, columns, width))
