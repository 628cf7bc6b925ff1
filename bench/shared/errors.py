"""Summaries of the errors of contestants on tables: means, gaps, ranks and a Markdown table."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Errors = dict[str, dict[str, float]]  # contestant -> table -> error


def means(runs: Iterable[Mapping[str, Any]], what: str, names: Sequence[str]) -> Errors:
    """Averages over the seeds. A run with a problem does not count."""
    kept: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for run in runs:
        if what in run and run["contestant"] in kept:
            kept[run["contestant"]].setdefault(run["table"], []).append(run[what])
    return {
        name: {table: statistics.fmean(values) for table, values in tables.items()}
        for name, tables in kept.items()
        if tables
    }


def gaps(errors: Errors, reference: Sequence[str]) -> Errors:
    """Compares to the best reference on each table: 0.1 is an error that is a tenth larger."""
    found: Errors = {}
    for name, tables in errors.items():
        found[name] = {}
        for table, error in tables.items():
            known = [errors[peer][table] for peer in reference if table in errors.get(peer, {})]
            if known:
                found[name][table] = error / min(known) - 1
    return found


def ranks(errors: Errors, tables: Iterable[str]) -> dict[str, float]:
    """Averages the ranks over tables that all contestants have: 1 is the best, and equal errors
    share a rank."""
    found: dict[str, list[float]] = {name: [] for name in errors}
    for table in tables:
        values = {name: errors[name][table] for name in errors}
        for name, value in values.items():
            less = sum(other < value for other in values.values())
            same = sum(other == value for other in values.values())
            found[name].append(less + (same + 1) / 2)
    return {name: statistics.fmean(places) for name, places in found.items() if places}


def common(errors: Errors) -> list[str]:
    """Finds the tables that all contestants have a result for."""
    every = list(dict.fromkeys(table for tables in errors.values() for table in tables))
    return [table for table in every if all(table in tables for tables in errors.values())]


def note(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names contestants with fewer seeds than others, and those with a problem."""
    seeds: dict[tuple[str, str], set[int]] = {}
    problems = {}
    for run in runs:
        key = (run["contestant"], run["table"])
        if "error" in run:
            seeds.setdefault(key, set()).add(run["seed"])
        else:
            problems[key] = f"{', '.join(key)}: {run['problem']}."
    most = max(map(len, seeds.values()), default=0)
    fewer: dict[tuple[str, int], list[str]] = {}
    for (name, table), found in seeds.items():
        if len(found) < most:
            fewer.setdefault((name, len(found)), []).append(table)
    lines = [
        f"{name}: {count} of {most} seeds on {', '.join(tables)}."
        for (name, count), tables in fewer.items()
    ]
    return lines + [line for key, line in problems.items() if key not in seeds]


def summary(
    errors: Errors, seconds: Errors, reference: Sequence[str], sizes: Mapping[str, int]
) -> str:
    """Writes a row for each table, and the summary over all tables below."""
    shared = common(errors)
    apart = gaps(errors, reference)
    lines = [
        f"| table | rows | {' | '.join(errors)} |",
        "|---|---|" + "---|" * len(errors),
    ]
    for table in sorted(sizes):
        cells = []
        for name in errors:
            cell = f"{errors[name][table]:.4g}" if table in errors[name] else ""
            if table in apart[name]:
                cell += f" ({apart[name][table]:+.1%})"
            cells.append(cell)
        lines.append(f"| {table} | {sizes[table]:,} | {' | '.join(cells)} |")
    if shared and all(table in apart[name] for name in errors for table in shared):
        mine = {name: [apart[name][table] for table in shared] for name in errors}
        places = ranks(errors, shared)
        spent = {
            name: statistics.fmean([seconds[name][table] for table in shared]) for name in errors
        }
        rows = {
            "mean gap": [f"{statistics.fmean(mine[name]):+.1%}" for name in errors],
            "median gap": [f"{statistics.median(mine[name]):+.1%}" for name in errors],
            "mean rank": [f"{places[name]:.2f}" for name in errors],
            "mean CPU seconds": [f"{spent[name]:.1f}" for name in errors],
        }
        lines += [f"| **{head}** | | {' | '.join(cells)} |" for head, cells in rows.items()]
    text = "\n".join(lines) + "\n"
    if shared and len(shared) < len(sizes):
        text += f"\nThe last four rows are of the tables that all have: {', '.join(shared)}.\n"
    return text
