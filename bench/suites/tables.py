"""The lines below pytest-benchmark's tables: rates, and the backends side by side."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nnaccel.training.benchmark import significant

Facts = Mapping[str, Any]  # the `extra_info` of a row
ACROSS = ("step", "gemm", "layer", "kernels")  # groups that compare backends

# Heading -> result of a row, in the order of the columns.
COLUMNS: dict[str, Callable[[Facts], str]] = {
    "time": lambda facts: time(facts["seconds"]),
    "GFLOP/s": lambda facts: significant(facts["gflops"]),
    "samples/s": lambda facts: significant(facts["samples_per_second"]),
    "of products": lambda facts: f"{facts['share_of_products']:.2f}",
    "exponent": lambda facts: f"{facts['exponent']:.2f}",
    "loss": lambda facts: f"{facts['loss']:.3g}",
    "memory": lambda facts: f"{facts['memory_ratio']:.2f}",
    "last/first": lambda facts: f"{facts['last_over_first']:.2f}",
}
LEGEND = """\
time: the best of one work (a product, a layer, a step, a fit).
of products: the time of its bare matrix products over it. At 1.00 all the rest costs nothing; above
that, calling the products one by one costs more than the work does.
loss: the mean of the first steps, equal in all rows of a table; of a fit, the last one.\
"""


def time(seconds: float) -> str:
    """A time in three digits with a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-6)} µs"


def rates(infos: Iterable[Facts]) -> Iterator[str]:
    """A line for each row with the meaning of its time, grouped by table."""
    tables: dict[tuple[str, str], list[Facts]] = {}
    for info in infos:
        tables.setdefault((info["group"], info["case"]), []).append(info)
    ordered = (info for table in tables.values() for info in table)
    rows = [(f"{i['group']} {i['case']}, {i['backend']}", cells(i)) for i in ordered]
    heads = [head for head in COLUMNS if any(head in row for _, row in rows)]
    yield ""
    yield from grid(["what the times mean", *heads], ([n, *map(r.get, heads)] for n, r in rows))
    yield from LEGEND.split("\n")


def cells(facts: Facts) -> dict[str, str]:
    found = {}
    for head, cell in COLUMNS.items():
        try:
            found[head] = cell(facts)
        except KeyError:
            continue
    return found


def side_by_side(infos: Iterable[Facts]) -> Iterator[str]:
    """For each group that compares backends, a table with a column for each backend, or with a row
    for each if there are more backends than works."""
    infos = list(infos)
    for group in ACROSS:
        mine = [info for info in infos if info["group"] == group]
        mine += bare_products(mine)
        cases = list(dict.fromkeys(info["case"] for info in mine))
        names = list(dict.fromkeys(info["backend"] for info in mine))
        found = {(info["case"], info["backend"]): cell(info) for info in mine}
        if len(names) < 2:
            continue
        if len(names) > len(cases):
            head, rows = cases, [[n, *(found.get((c, n)) for c in cases)] for n in names]
        else:
            head, rows = names, [[c, *(found.get((c, n)) for n in names)] for c in cases]
        yield ""
        yield from grid([f"{group}: time (GFLOP/s)", *head], rows)


def bare_products(infos: Iterable[Facts]) -> list[Facts]:
    """The products alone as further backends, one for each device: the best time in its rows."""
    best: dict[tuple[str, str], Facts] = {}
    for info in infos:
        if seconds := info.get("products_seconds"):
            rate = info["gflops"] * info["seconds"] / seconds
            row = {"case": info["case"], "seconds": seconds, "gflops": rate}
            row["backend"] = f"products, {info['device']}"
            key = row["case"], row["backend"]
            best[key] = min(best.get(key, row), row, key=lambda row: row["seconds"])
    return list(best.values())


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
