"""Tables of scores: compared with the best constant prediction, by class, and of several models."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

from rich.console import Group
from rich.text import Text

from nnaccel.cli.display import number, table
from nnaccel.tabular.scores import OUT_OF_FOLD, SHOWN_CLASSES, beside_constant, unseen_of
from nnaccel.tabular.several_targets import Targets, columns_of
from nnaccel.tabular.targets import Target


def single(scores: dict[str, Any]) -> dict[str, float]:
    """The scores that are single finite numbers, which a model file holds."""
    return {name: v for name, v in scores.items() if isinstance(v, float) and isfinite(v)}


def scores(scores: dict[str, Any], title: str, target: Target | Targets) -> Group:
    """Tables of the scores, of each class, and the confusion matrix."""
    rows, header = [*_rows(single(scores))], ("score", "value", "constant prediction")
    if not any(baseline for _, _, baseline in rows):
        rows, header = [row[:2] for row in rows], header[:2]
    parts: list[Any] = [table(title, header, rows)]
    for one in columns_of(target):
        several = isinstance(target, Targets)
        prefix = f"{one.name}: " if several else ""
        if f"{prefix}confusion matrix" in scores:
            parts += _of_classes(one, scores, prefix)
    return Group(*parts)


def by_prefix(scores: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The scores on test rows, and the out-of-fold scores."""
    unseen = {name: value for name, value in scores.items() if name.startswith(OUT_OF_FOLD)}
    return {name: value for name, value in scores.items() if name not in unseen}, unseen


def out_of_fold(scores: dict[str, float], title: str) -> Group:
    """The out-of-fold scores, with their spread over the folds."""
    rows = [(n, number(value), number(spread)) for n, value, spread in unseen_of(scores)]
    return table(title, ("score", "value", "spread over folds"), rows)


def comparison(scores: dict[str, dict[str, Any]], title: str) -> Group:
    """The scores of several models on the same rows, one column for each model."""
    found = {model: single(each) for model, each in scores.items()}
    names = dict.fromkeys(name for each in found.values() for name in each)
    rows = [
        (name, *(number(each[name]) if name in each else "" for each in found.values()))
        for name in names
    ]
    return table(title, ("score", *found), rows)


def _rows(scores: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    """The rows of scores, each with that of a constant prediction."""
    for name, value, constant, which in beside_constant(scores):
        yield name, number(value), "" if constant is None else f"{number(constant)} always {which}"


def _of_classes(target: Target, scores: dict[str, Any], prefix: str) -> Iterator[Any]:
    names = [*map(named, target.classes)]
    if len(names) > SHOWN_CLASSES:
        yield f"{prefix}confusion matrix: not shown for {len(names)} classes"
        return
    if each := scores.get(f"{prefix}classes"):
        columns = [map(amount, each["rows"])]
        columns += [map(number, each[name]) for name in ("precision", "recall", "F1")]
        rows = zip(names, *columns, strict=True)
        yield table(f"{prefix}each class", ("class", "rows", "precision", "recall", "F1"), rows)
    rows = []
    for i, (name, counts) in enumerate(
        zip(names, scores[f"{prefix}confusion matrix"], strict=True)
    ):
        styles = ("bold green" if i == j else "" if n else "dim" for j, n in enumerate(counts))
        rows.append((name, *map(Text, map(amount, counts), styles)))
    title = f"{prefix}confusion matrix: true classes in rows, predicted ones in columns"
    yield table(title, ("", *names), rows)


def named(label: Any) -> str:
    """A label, in quotes if its begin and end would not be visible."""
    return repr(label) if str(label) != str(label).strip() or label == "" else str(label)


def amount(rows: float) -> str:
    """The number of rows, or the sum of their weights."""
    return f"{rows:.0f}" if float(rows).is_integer() else f"{rows:.6g}"
