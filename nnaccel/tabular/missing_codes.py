"""Codes for missing numbers: -9999, 999, 1e20 in a column whose other values are nowhere near."""

import numpy as np

MOST = 3  # codes that a column may have
REPEATED = 3  # times that a code occurs at least
DIFFERENT = 10  # other values there must be at least, to say where the column lies
FAR = 2.0  # a code is so many times the range of all others away from them


def find_codes(values: np.ndarray) -> dict[float, int]:
    """The codes among numbers (N,), NaN left out, and how often each occurs.

    A code is the smallest or the largest value, repeated, and further from all others than twice
    their range: what is measured comes closer to the rest, and does not repeat exactly.
    """
    found: dict[float, int] = {}
    known = values[~np.isnan(values)]
    while len(found) < MOST and len(known) > DIFFERENT:
        low, high = known.min(), known.max()
        for code, n in ((v, np.count_nonzero(known == v)) for v in (low, high)):
            if n < REPEATED or n == len(known):
                continue
            rest = known[known != code]
            span = rest.max() - rest.min()
            gap = rest.min() - code if code == low else code - rest.max()
            if span > 0 and gap > FAR * span and len(np.unique(rest[:10_000])) >= DIFFERENT:
                found[float(code)] = int(n)
                known = rest
                break
        else:
            break
    return found
