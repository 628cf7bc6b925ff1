"""Finds codes for missing numbers, such as -9999, 999 or 1e20 in a column whose other values are
far away."""

import numpy as np

MOST = 3  # the largest number of codes in a column
REPEATED = 3  # the least number of times that a code occurs
DIFFERENT = 10  # the least number of other values, which show the range of the column
FAR = 2.0  # the least distance of a code from all other values, in units of their range


def find_codes(numbers: dict[str, np.ndarray]) -> dict[str, dict[float, int]]:
    """The codes in columns of numbers (N,) without NaN, and the count of each, by column.

    A code is the smallest or the largest value, occurs several times, and is further from all
    others than twice their range: measured values come closer to the rest, and do not repeat
    exactly. A code of one column is also one in another column if it occurs several times there and
    all other values have the other sign.
    """
    found = {name: _far_off(values) for name, values in numbers.items()}
    everywhere = {code for codes in found.values() for code in codes}
    for name, values in numbers.items():
        for code in everywhere - found[name].keys():
            n = np.count_nonzero(values == code)
            if n >= REPEATED and _is_apart(values, code):
                found[name][code] = int(n)
    return {name: codes for name, codes in found.items() if codes}


def _is_apart(values: np.ndarray, code: float) -> bool:
    """Whether all other values have the other sign, or are 0."""
    rest = values[(values != code) & ~np.isnan(values)]
    return len(rest) > 0 and bool((rest * np.sign(code) <= 0).all())


def _far_off(values: np.ndarray) -> dict[float, int]:
    found: dict[float, int] = {}
    known = values[np.isfinite(values)]
    while len(found) < MOST and len(known) > DIFFERENT:
        for code in (known.min(), known.max()):
            n = np.count_nonzero(known == code)
            if not REPEATED <= n < len(known):
                continue
            rest = known[known != code]
            span = rest.max() - rest.min()
            gap = max(rest.min() - code, code - rest.max())
            if gap > FAR * span > 0 and len(np.unique(rest[:10_000])) >= DIFFERENT:
                found[float(code)] = int(n)
                known = rest
                break
        else:
            break
    return found
