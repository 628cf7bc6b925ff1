"""Finds columns that only tell rows apart: row numbers, by their content, and identifiers, by their
name."""

import re

import numpy as np

ROWS = 20  # a column is judged only on more rows than this
SHARE = 0.9  # the least share of rows with different values in an identifier
# The last words of names that say identifier, and names that consist of one word.
WORDS = frozenset(("id", "ids", "index", "idx", "uuid", "guid", "rowid", "key", "pk", "serial"))
NUMBERED = frozenset(("no", "nr", "num", "number"))  # after one of these, a number
THINGS = (
    "row|record|line|case|sample|item|entry|obs|observation|serial|id|ticket|order|invoice|account|"
    "customer|client|passenger|patient|person|user|member|employee|student|subject|house|loan|"
    "object|transaction|session|device|product|vehicle|policy|claim|unnamed"
)
JOINED = re.compile(rf"^(?:{THINGS})(?:id|no|nr|num|number|index|key)?s?$")


def names_identifier(name: str) -> bool:
    """Whether the name of a column says that it is an identifier: "id", "RowNumber", "Passenger
    Id".

    Case, blanks, "_", "-" and "." do not matter. "Unnamed: 0" and "" count, since programs write
    them for an index.
    """
    name = re.sub(r":\s*\d+$", "", name.strip())
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    joined = "".join(words).lower()
    if not joined or joined == "unnamed":
        return True
    last = words[-1].lower()
    before = words[-2].lower() if len(words) > 1 else ""
    if last in WORDS or (last in NUMBERED and JOINED.match(before)):
        return True
    suffixed = re.fullmatch(rf"(?:{THINGS})(?:id|no|nr|num|number|index|key)", joined)
    return suffixed is not None


def is_row_number(values: np.ndarray) -> bool:
    """Whether the numbers (N,) count the rows of the file, from any start."""
    with np.errstate(invalid="ignore"):  # infinities are no row numbers
        return len(values) > ROWS and bool((np.diff(values) == 1).all())


def tells_apart(n_different: int, n_rows: int) -> bool:
    """Whether nearly all rows have different values."""
    return n_rows > ROWS and n_different > SHARE * n_rows
