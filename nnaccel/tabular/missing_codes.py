"""Codes for missing numbers: -9999, 999, 1e20 in a column whose other values are nowhere near."""

import numpy as np

MOST = 3  # codes that a column may have
REPEATED = 3  # times that a code occurs at least
DIFFERENT = 10  # other values there must be at least, to say where the column lies
FAR = 2.0  # a code is so many times the range of all others away from them


def find_codes(numbers: dict[str, np.ndarray]) -> dict[str, dict[float, int]]:
    """The codes in columns of numbers (N,), NaN left out, and how often each occurs, by column.

    A code is the smallest or the largest value, repeated, and further from all others than twice
    their range: what is measured comes closer to the rest, and does not repeat exactly. What is a
    code in one column is one in another, too, if it is repeated there and of the other sign than
    all other values.
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
