"""Scaling of numbers: their center and scale, and a bend for values far out."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nnaccel.typing import Array, Namespace

OUTLIER = 8.0  # standard deviations from the mean, beyond which values are outliers
BEND = 20.0  # scaled numbers up to it are unchanged: a long tail keeps its resolution
NORMAL_QUARTILES = 1.349  # distance of the quartiles of a normal variable, standard deviation 1
ROUNDING = 8 * np.finfo(float).eps  # a standard deviation below this share of the mean is rounding
BLOCK = 1 << 21  # numbers processed at once: 16 MB in float64


class Scale(NamedTuple):
    """The scale of a column of numbers: z = (x - center) / scale, bent if some values are far out.

    present: the count of values that are not missing.   varies: whether they differ by more than
    rounding.
    """

    center: float
    scale: float
    bend: bool
    present: int
    varies: bool


def bend(z: Array, *, xp: Namespace) -> Array:
    """z from -B to B, B = 20; beyond, B (1 + log(|z| / B)) with the sign of z.

    It is smooth and increasing, so large values keep their order, and grow without bound but
    slowly: a million becomes 236.
    """
    far = xp.maximum(xp.abs(z) / BEND, xp.ones_like(z))
    return xp.where(far > 1, xp.sign(z) * (BEND * (1 + xp.log(far))), z)


def scales(read: Callable[[slice], np.ndarray], columns: int, rows: int) -> list[Scale]:
    """The scale of each column.   read: returns some columns as float64 (n, rows), which may be
    overwritten.

    Mean and population standard deviation of the present values (not NaN), by two passes over data
    shifted by their first value. So a constant column has a spread of exactly 0, and a large common
    offset costs no digits. A column with values more than 8 standard deviations from the mean is
    scaled by its median and quartiles, which outliers do not move, unless the quartiles coincide.
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
    """The columns in parts that are small enough to process at once."""
    width = max(1, BLOCK // max(rows, 1))
    return (slice(at, min(at + width, columns)) for at in range(0, columns, width))
