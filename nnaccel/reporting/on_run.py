"""The sections of a report on the run: training, importance of the columns, and their encoding.

Each function returns HTML, or None if the section would be empty.
"""

from nnaccel.cli.display import number
from nnaccel.cli.model_tables import encodings
from nnaccel.cli.plan import count, kept, plan
from nnaccel.reporting.account import Account, missing_values, shuffled_rows
from nnaccel.reporting.charts import Chart, is_long, log_span, span
from nnaccel.reporting.html import Markup, figure, join, section, table, tag
from nnaccel.tabular.branch import Branch
from nnaccel.tabular.importance import Importance
from nnaccel.tabular.members import BOTH

SHOWN_COLUMNS, SHOWN_IMPORTANT = 200, 15
ROUNDED = 12  # decimals of an importance: further digits are rounding errors of the sums


# ---------------------------------------------------------------------------- training


def training(told: Account) -> Markup:
    """The curves of the loss and of the metric for each kind of networks in the model."""
    fit, metric = told.fit, told.fit.metric.name
    shown = [b for b in fit.branches if fit.chosen in ("", BOTH, b.settings.numbers)]
    charts = []
    for branch in (branch for branch in shown if branch.history):  # empty if interrupted before
        of = f", numbers {branch.settings.numbers}" * (len(fit.branches) > 1)
        charts.append(_curves(branch, f"Loss{of}", "loss", "loss"))
        charts.append(_curves(branch, f"{metric}{of}", "metric", metric))
    how = " The curves are means over the networks." * (fit.members > 1)
    words = f"In the end {kept(fit)}.{how}"
    words += " The loss of training is that of its minibatches, with dropout if there is any."
    return section("Training", tag("p", words), tag("div", join(charts), class_="charts"))


def _curves(branch: Branch, title: str, name: str, label: str) -> Markup:
    """The training and validation curves of the loss or metric `name`."""
    history = branch.history
    epochs = [*range(1, len(history) + 1)]
    values = [row[name] for row in history]
    curves = {"first": ("training", values)}
    if f"validation_{name}" in history[0]:
        curves["second"] = "validation", [row[f"validation_{name}"] for row in history]
    together = [values for _, values in curves.values()]
    is_log = is_long(*together)
    y = log_span(*together) if is_log else span(*together)
    labels = ("epoch", f"{label}, logarithmic" if is_log else label)
    chart = Chart((0.5, len(history) + 0.5), y, labels, log=is_log, whole=True)
    key = [(css, said) for css, (said, _) in curves.items()]
    said = [f"{words} from {number(v[0])} to {number(v[-1])}" for words, v in curves.values()]
    if "second" in curves and (best := branch.best):
        first, last = min(best), max(best)
        which = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        chart.band(first, last, "best")
        key.append(("best", f"best: {which}"))
        said.append(f"best {which}")
    for css, (_, values) in curves.items():
        chart.line(epochs, values, css)
        if len(epochs) == 1:
            chart.dots(epochs, values, f"solid {css}")
    of = f"{label} by epoch, {count(len(history), 'epoch')}"
    return figure(title[:1].upper() + title[1:], chart.svg(of, "; ".join(said)), key)


# ---------------------------------------------------------------------------- columns


def importance(told: Account) -> Markup:
    """The permutation importance of the first columns, with its standard deviation."""
    found = told.importance
    if not isinstance(found, Importance) or told.sample is None:
        return section("Importance", tag("p", f"No importance of the columns: {found}."))
    chosen = found.ranking[:SHOWN_IMPORTANT]
    means, stds = (each[chosen].round(ROUNDED) + 0.0 for each in (found.mean, found.std))
    ends = span(means - stds, means + stds, [0.0], margin=0.0)
    rows = [
        (found.columns[i], number(mean), f"± {number(std)}", _bar(mean, std, *ends))
        for i, mean, std in zip(chosen, means.tolist(), stds.tolist(), strict=True)
    ]
    n, rest = shuffled_rows(told.model, len(told.sample.Y)), len(found.columns) - len(rows)
    caption = (
        f"How much worse the {found.score}, {number(found.baseline)} on {count(n, 'test row')}, is "
        f"once the values of a column are shuffled: the mean of {found.values.shape[1]} shuffles, "
        "and their standard deviation"
    )
    more = tag("p", f"Not shown: {count(rest, 'column')} of less importance.") if rest else ""
    header = ("column", "importance", "spread", "as a bar")
    words = (
        "Permutation importance. Columns that say the same share their importance, or have none, "
        "since each can stand for the other."
    )
    shown = table(caption, header, rows, numbers=(1, 2))
    return section("Importance", tag("p", words), shown, more)


def _bar(mean: float, std: float, low: float, high: float) -> Markup:
    """A bar from 0 to the mean, with a whisker of one standard deviation."""
    zero, end, a, b = (
        100 * (x - low) / ((high - low) or 1.0) for x in (0.0, mean, mean - std, mean + std)
    )
    bar = tag("rect", x=f"{min(zero, end):.2f}", y=2, width=f"{abs(end - zero):.2f}", height=8)
    whisker = tag("path", d=f"M{a:.2f} 6H{b:.2f}")
    box = {"viewBox": "0 0 100 12", "preserveAspectRatio": "none"}
    return tag("div", tag("svg", bar, whisker, **box, aria_hidden="true"), class_="bar")


def columns(told: Account) -> Markup:
    """A table of the columns: how they are read and encoded, and their shares of missing values."""
    features, missing = told.model.features, missing_values(told.fit)
    names = {n.label: n.name for n in features.numeric}
    used = {*names.values(), *(c.name for c in features.categorical)}
    rows = [
        (name, read, _missing(names.get(name, name), told, missing, used), encoded)
        for group in encodings(features).values()
        for name, read, encoded in group
    ]
    rest = len(rows) - SHOWN_COLUMNS
    caption = f"{count(len(features.columns), 'column')} of {told.fit.source}, read and encoded as "
    caption += f"the {count(told.fit.rows['train'], 'training row')} decide"
    more = tag("p", f"Not shown: {count(rest, 'more column')}.") if rest > 0 else ""
    header = ("column", "read as", "missing", "encoded as")
    return section("Columns", table(caption, header, rows[:SHOWN_COLUMNS], numbers=(2,)), more)


def _missing(name: str, told: Account, missing: dict[str, int], used: set[str]) -> str:
    """The share of the training rows without a value; "some" if they were not counted."""
    if name not in used:
        return ""
    if name not in told.model.features.indicators:
        return "none"
    if name not in missing:
        return "some"
    return f"{missing[name]:,} ({missing[name] / told.fit.rows['train']:.1%})"


# ---------------------------------------------------------------------------- the run


def plan_of_the_run(told: Account) -> Markup:
    """The plan that `nnaccel train` prints."""
    fit = told.fit
    text = plan(fit, fit.structure, told.device)
    return section("Plan", tag("pre", join(text.splitlines(), "\n")))


def warnings(told: Account) -> Markup | None:
    """The warnings about the table."""
    if not told.warnings:
        return None
    return section("Warnings", tag("ul", join(tag("li", text) for text in told.warnings)))
