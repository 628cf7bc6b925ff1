"""What stands under pytest-benchmark's tables: rates, and the backends side by side."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nnaccel.training.benchmark import significant

Facts = Mapping[str, Any]  # the `extra_info` of a row
ACROSS = ("step", "gemm", "layer", "kernels")  # groups that compare backends

# What a row may have, under its heading, in the order of the columns.
COLUMNS: dict[str, Callable[[Facts], str]] = {
    "time": lambda facts: time(facts["seconds"]),
    "GFLOP/s": lambda facts: significant(facts["gflops"]),
    "samples/s": lambda facts: significant(facts["samples_per_second"]),
    "of products": lambda facts: f"{facts['share_of_products']:.2f}",
    "exponent": lambda facts: f"{facts['exponent']:.2f}",
    "loss": lambda facts: f"{facts['final_loss']:.3g}",
    "memory": lambda facts: f"{facts['memory_ratio']:.2f}",
    "last/first": lambda facts: f"{facts['last_over_first']:.2f}",
}
LEGEND = (
    "time: the best of one work (a product, a layer, a step, a fit). of products: the time of its "
    "bare matrix products over it; 1 is the floor, above 1 the products' calls cost more than all "
    "of it."
)


def time(seconds: float) -> str:
    """Three digits with the unit that suits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-6)} µs"


def rates(infos: Iterable[Facts]) -> Iterator[str]:
    """A line for each row: what its time means."""
    rows = [(f"{i['group']} {i['case']}, {i['backend']}", cells(i)) for i in infos]
    heads = [head for head in COLUMNS if any(head in row for _, row in rows)]
    yield ""
    yield from grid(["what the times mean", *heads], ([n, *map(r.get, heads)] for n, r in rows))
    yield LEGEND


def cells(facts: Facts) -> dict[str, str]:
    found = {}
    for head, cell in COLUMNS.items():
        try:
            found[head] = cell(facts)
        except KeyError:
            continue
    return found


def side_by_side(infos: Iterable[Facts]) -> Iterator[str]:
    """For each group that compares them, a table with a column for each backend."""
    infos = list(infos)
    for group in ACROSS:
        mine = [info for info in infos if info["group"] == group]
        cases = list(dict.fromkeys(info["case"] for info in mine))
        names = list(dict.fromkeys(info["backend"] for info in mine))
        found = {(info["case"], info["backend"]): cell(info) for info in mine}
        if len(names) < 2:
            continue
        rows, columns = (names, cases) if len(names) > len(cases) else (cases, names)
        across = columns == names
        table = (
            [row, *(found.get((row, c) if across else (c, row)) for c in columns)] for row in rows
        )
        yield ""
        yield from grid([f"{group}: time (GFLOP/s)", *columns], table)


def cell(facts: Facts) -> str:
    rate = f" ({significant(facts['gflops'])})" if "gflops" in facts else ""
    return time(facts["seconds"]) + rate


def grid(head: list[str], rows: Iterable[list[str | None]]) -> Iterator[str]:
    """Lines with columns that are aligned, the first to the left."""
    lines = [head, *([cell or "" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        pairs = list(zip(line, widths, strict=True))
        first, others = pairs[0], pairs[1:]
        text = first[0].ljust(first[1]) + "".join("  " + c.rjust(w) for c, w in others)
        yield text.rstrip()
        if not number:
            yield "-" * len(text)
