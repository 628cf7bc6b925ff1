"""Reads numbers in the forms that people write: currency, percent, grouped digits, decimal commas,
brackets.

Everything works on the different texts of a column at once, with Arrow's string functions.
"""

from typing import Any

import numpy as np

from nnaccel.tabular.tables import import_extra

MARKS = (".", ",")  # decimal marks
# Separators of groups of digits, besides the one of `MARKS` that is not the decimal mark.
GAPS = r" '’\x{a0}\x{2009}\x{202f}"
SIGN = r"[+\-]?"
CURRENCY = r"(?:[A-Za-z]{0,3}\p{Sc}|USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|BRL)"
PLAIN = rf"^{SIGN}(?:\d+\.?\d*|\.\d+)(?:[eE]{SIGN}\d+)?$"
INFINITE = r"^(?i)[+\-]?inf(?:inity)?$"


def to_float64(cells: Any, decimal: str = ".") -> np.ndarray:
    """The numbers (N,) in texts, float64; NaN where a text is null or no number.

    cells: pyarrow Array or ChunkedArray of strings.   decimal: one of `MARKS`. A number may have
    blanks around it, a currency before or after it, "%" (which divides by 100), brackets for a
    negative amount, and groups of digits separated by blanks, apostrophes or the other mark.
    """
    pa, pc = import_extra("pyarrow"), import_extra("pyarrow.compute")
    try:
        if decimal == ".":
            return _floats(cells.cast(pa.float64()))
    except pa.ArrowInvalid:
        pass  # some are not plain numbers
    text = pc.utf8_trim_whitespace(cells)
    text = pc.replace_substring_regex(text, r"^\((.*\d.*)\)$", r"-\1")
    text = pc.replace_substring(text, "−", "-")  # the typographic minus sign
    text = pc.replace_substring_regex(text, rf"^({SIGN})\s*{CURRENCY}\s*", r"\1")
    text = pc.replace_substring_regex(text, rf"\s*{CURRENCY}$", "")
    percent = pc.match_substring_regex(text, r"\d\s*%$")
    text = pc.replace_substring_regex(text, r"\s*%$", "")
    point = rf"\{decimal}"
    other = MARKS[decimal == "."]
    grouped = (
        rf"^{SIGN}[1-9]\d{{0,2}}(?:[{other}{GAPS}]\d{{2,3}})*[{other}{GAPS}]\d{{3}}(?:{point}\d*)?$"
    )
    is_grouped = pc.match_substring_regex(text, grouped)
    joined = pc.replace_substring_regex(text, rf"[{other}{GAPS}]", "")
    text = pc.if_else(is_grouped, joined, text)
    if decimal == ",":
        # A point that separates no groups is no decimal mark here.
        text = pc.if_else(pc.match_substring(text, "."), "", text)
        text = pc.replace_substring(text, ",", ".")
    valid = pc.or_(pc.match_substring_regex(text, PLAIN), pc.match_substring_regex(text, INFINITE))
    values = _floats(pc.if_else(valid, text, None).cast(pa.float64()))
    return np.where(
        pc.fill_null(percent, False).to_numpy(zero_copy_only=False), values / 100, values
    )


def _floats(column: Any) -> np.ndarray:
    values = (
        column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(zero_copy_only=False)
    )
    return values.astype(np.float64, copy=False)
