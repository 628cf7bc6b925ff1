"""The report of a training run as one HTML page, which works offline."""

import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

from nnaccel import __version__
from nnaccel.cli.display import number
from nnaccel.cli.plan import count, task_of
from nnaccel.cli.score_tables import single
from nnaccel.files import write
from nnaccel.reporting import on_predictions, on_run
from nnaccel.reporting.account import Account, account_of
from nnaccel.reporting.html import Markup, join, section, tag, terms
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.tabular.scores import beside_constant

STYLE = Path(__file__).with_name("page.css")
# The page is self-contained. A browser loads nothing and runs no script, for any table content.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def report(
    fit: Fit,
    path: str | PathLike[str],
    *,
    model: Model | None = None,
    scores: dict[str, Any] | None = None,
    command: str | None = None,
    seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Write a page about a finished training run: an HTML file without scripts or links.

    The page shows the scores and those of a constant prediction, the training curves, confusions
    and calibration or residuals, the importance of the columns, the plan, and the encoding of the
    columns. Charts and importance use a few thousand test rows.

    model, scores: the results of `fit.model` and `fit.evaluate`, if already known.
    command, seconds, warnings: the command line, the training time, the warnings about the table.
    The file is written completely or not at all. Raises RuntimeError before the first epoch, and
    OSError if the file cannot be written.
    """
    told = account_of(fit, model, scores, command=command, seconds=seconds, warnings=warnings)
    write(path, page(told, datetime.now().astimezone()).encode("utf-8"))


def page(told: Account, now: datetime) -> str:
    """The text of the page."""
    task = task_of(told.model.target)
    title = f"{task[:1].upper()}{task[1:]}"
    sections = {
        "Run": section("Run", tag("div", terms(_facts(told, now)), class_="facts")),
        "Scores": on_predictions.scores(told),
        "Training": on_run.training(told),
        "Classes": on_predictions.classes(told),
        "Residuals": on_predictions.residuals(told),
        "Importance": on_run.importance(told),
        "Plan": on_run.plan_of_the_run(told),
        "Columns": on_run.columns(told),
        "Warnings": on_run.warnings(told),
    }
    there = {title: content for title, content in sections.items() if content is not None}
    links = join(tag("a", title, href=f"#{title.lower()}") for title in there)
    body = [
        tag(
            "header",
            tag("h1", title),
            tag("p", f"{told.fit.source}, {now:%Y-%m-%d %H:%M}", class_="muted"),
            tag("dl", join(_tiles(told)), class_="tiles"),
            tag("nav", links, aria_label="sections"),
        ),
        tag("main", *there.values()),
    ]
    style = Markup(STYLE.read_text(encoding="utf-8"))
    return PAGE.format(policy=POLICY, title=join([title]), style=style, body=join(body, "\n"))


def _tiles(told: Account) -> Iterator[Markup]:
    """The most important figures, at the top of the page."""
    scores, of = (told.sample.scores, told.sample.short) if told.sample else ({}, "")
    compared = [s for s in beside_constant(single(scores)) if s.constant is not None]
    for score in compared[:2]:
        beside = f"always {score.which}: {number(score.constant or 0.0)}"
        yield _tile(f"{score.name}, {of}", number(score.value), beside)
    rows = told.fit.rows
    parts = ", ".join(f"{n:,} {part}" for part, n in rows.items() if n)
    yield _tile("rows", f"{sum(rows.values()):,}", parts)
    network = told.fit.network
    sizes = f"{network.n_inputs:,} inputs, {count(network.n_outputs, 'output')}"
    yield _tile("networks", str(told.model.members), sizes)


def _tile(name: str, value: str, note: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", note)))


def _facts(told: Account, now: datetime) -> Iterator[tuple[str, Any]]:
    """The facts of the run: model, data, device and time."""
    fit, chosen = told.fit, told.fit.settings
    yield "source", fit.source
    yield "target", ", ".join(told.model.target.names)
    yield "rows", ", ".join(f"{n:,} {part}" for part, n in fit.rows.items() if n)
    yield "network", repr(told.model.network)
    yield "epochs", f"{fit.n_done:,} of at most {fit.n_epochs:,}"
    yield "seed", chosen.seed
    if told.seconds is not None:
        yield "time", f"{told.seconds:.3g} s of training"
    yield "device", f"{told.device}, {platform.machine()}, {platform.system()}"
    yield "date", now.isoformat(" ", "seconds")
    yield "versions", ", ".join(_versions(told))
    if told.command:
        yield "command", tag("code", told.command)


def _versions(told: Account) -> Iterator[str]:
    yield f"nnaccel {__version__}"
    yield "Python {}.{}.{}".format(*sys.version_info)
    for package in dict.fromkeys(("numpy", "scikit-learn", told.fit.device.library)):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:  # the name of CuPy's package depends on CUDA's version
            yield f"{package} {getattr(sys.modules.get(package), '__version__', '')}".rstrip()
