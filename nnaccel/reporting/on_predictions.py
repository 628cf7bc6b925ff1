"""The sections of a report on predictions: scores, classes and residuals.

Each function returns HTML, or None if the section would be empty.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nnaccel.cli.display import number
from nnaccel.cli.plan import count
from nnaccel.cli.score_tables import amount, named, single
from nnaccel.reporting.account import Account
from nnaccel.reporting.charts import Chart, span
from nnaccel.reporting.html import Markup, figure, join, section, table, tag, wide
from nnaccel.tabular.scores import SHOWN_CLASSES, Compared, beside_constant, unseen_of
from nnaccel.tabular.several_targets import columns_of
from nnaccel.tabular.tables import import_extra
from nnaccel.tabular.targets import Target

SHOWN_CONFUSIONS = 20  # most frequent confusions, if there are many classes
SHOWN_TARGETS = 4  # most targets with charts
DOTS = 1000  # most dots in a chart
BINS = 10  # of a calibration curve
TINT = 0.45  # shade of a cell with all rows of a class; text on it is readable in both schemes


# ---------------------------------------------------------------------------- scores


def scores(told: Account) -> Markup | None:
    """The scores on test rows, those of a constant prediction, and the out-of-fold scores."""
    parts = []
    if told.scores:
        caption = f"{count(told.fit.rows['test'], 'test row')}, which no network has seen"
        rows = [
            (s.name, number(s.value), _constant(s)) for s in beside_constant(single(told.scores))
        ]
        header = ("score", "value", "constant prediction")
        parts.append(table(caption, header, rows, numbers=(1,)))
    unseen = unseen_of(told.model.scores)
    rows = [(name, number(value), number(spread)) for name, value, spread in unseen]
    if rows:
        caption = "Out of fold: each training row is predicted by the network that has not seen "
        caption += "it. The spread is the standard deviation over the folds"
        parts.append(table(caption, ("score", "value", "spread"), rows, numbers=(1, 2)))
    return section("Scores", tag("div", *parts, class_="beside")) if parts else None


def _constant(score: Compared) -> str:
    """The score of the best constant prediction, and the predicted value."""
    return "" if score.constant is None else f"{number(score.constant)} always {score.which}"


# ---------------------------------------------------------------------------- classes


def classes(told: Account) -> Markup | None:
    """The confusions between classes, and the calibration of the probabilities."""
    if told.model.target.task == "regression" or told.sample is None:
        return None
    parts, scores = [tag("p", f"Predictions of {told.sample.name}.")], told.sample.scores
    several = len(columns_of(told.model.target)) > 1
    for one in columns_of(told.model.target):
        prefix = f"{one.name}: " if several else ""
        if f"{prefix}confusion matrix" in scores:
            parts.append(tag("div", *_of_target(one, scores, prefix), class_="beside"))
    found = told.classes()[:SHOWN_TARGETS]
    charts = [_calibration(*each, several) for each in found]
    words = (
        "Calibration: the share of rows that are right, by their predicted probability. On the "
        "dotted line the two are equal; whiskers are two standard errors long to either side."
    )
    if told.sample.weights is not None:
        words += " All rows count alike here."
    words += _first_of(told)
    parts += [tag("p", words), tag("div", join(charts), class_="charts")]
    return section("Classes", *parts)


def _of_target(target: Target, scores: dict[str, Any], prefix: str) -> Iterator[Markup]:
    matrix, names = np.asarray(scores[f"{prefix}confusion matrix"]), [*map(named, target.classes)]
    if len(names) > SHOWN_CLASSES:
        yield _confusions(matrix, names, prefix)
        return
    yield _matrix(matrix, names, prefix)
    if each := scores.get(f"{prefix}classes"):
        columns = [map(amount, each["rows"])]
        columns += [map(number, each[name]) for name in ("precision", "recall", "F1")]
        rows = zip(names, *columns, strict=True)
        header = ("class", "rows", "precision", "recall", "F1")
        yield table(f"{prefix}Each class", header, rows, numbers=(1, 2, 3, 4))


def _matrix(matrix: np.ndarray, names: Sequence[str], prefix: str) -> Markup:
    """The confusion matrix, shaded by the share of the rows of each true class."""
    total = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(total, 1e-300)
    few = len(names) <= 8
    caption = f"{prefix}Confusion matrix: true classes in rows, predicted ones in columns; per cent"
    caption += " of the rows of the true class" + ", and rows" * few
    head = [tag("th", "true \\ predicted", scope="col")]
    head += [tag("th", name, scope="col") for name in names] + [tag("th", "rows", scope="col")]
    body = []
    for i, name in enumerate(names):
        cells = [tag("th", name, scope="row", title=name)]
        for j, (share, n) in enumerate(zip(shares[i], matrix[i], strict=True)):
            said = f"{amount(n)} of {name} predicted as {names[j]}"
            shown = [
                f"{100 * share:.0f}" if n else "",
                tag("small", amount(n)) if few and n else "",
            ]
            style = f"--share:{TINT * share:.3f}"
            css = "right" if i == j else None
            cells.append(tag("td", *shown, title=said, style=style, class_=css))
        cells.append(tag("td", amount(total[i, 0]), style="--share:0"))
        body.append(tag("tr", *cells))
    parts = (
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", *head)),
        tag("tbody", join(body, "\n")),
    )
    return wide(tag("table", *parts, class_="matrix"), caption)


def _confusions(matrix: np.ndarray, names: Sequence[str], prefix: str) -> Markup:
    """The most frequent confusions, if the classes are too many for a readable matrix."""
    wrong, total = matrix.astype(float), matrix.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    rows = [
        (names[i], names[j], amount(float(matrix[i, j])), f"{matrix[i, j] / total[i]:.0%}")
        for i, j in pairs
        if wrong[i, j]
    ]
    caption = f"{prefix}The most frequent confusions of {len(names)} classes"
    header = ("true class", "predicted", "rows", "of the true class")
    return table(caption, header, rows, numbers=(2, 3))


def _calibration(target: Target, codes: np.ndarray, P: np.ndarray, several: bool) -> Markup:
    """The calibration curve: how often the predicted class, or the second of two classes, is the
    true one, by its probability."""
    curve = import_extra("sklearn.calibration").calibration_curve
    if P.shape[1] == 2:
        right, p, what = codes == 1, P[:, 1], f"P({target.classes[1]})"
    else:
        right, p, what = codes == P.argmax(axis=1), P.max(axis=1), "P(predicted class)"
    n_bins = max(1, min(BINS, len(p) // 10))
    share, mean = curve(right, p, n_bins=n_bins, strategy="quantile", pos_label=True)
    error = 2 * np.sqrt(share * (1 - share) * len(share) / len(p))
    chart = Chart((0.0, 1.0), (0.0, 1.0), (what, "share that is right"))
    chart.line([0, 1], [0, 1], "even").whiskers(mean, share - error, share + error, "first")
    chart.line(mean, share, "first").dots(mean, share, "solid first")
    of = f" of {target.name}" if several else ""
    said = f"mean probability {p.mean():.3f}, share that is right {right.mean():.3f}"
    pairs = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(mean, share, strict=True))
    words = f"{said}; probability to share: {pairs}"
    return figure(f"Calibration{of}, {count(len(p), 'row')}", chart.svg("calibration", words))


# ---------------------------------------------------------------------------- numbers


def residuals(told: Account) -> Markup | None:
    """The predictions of numeric targets, and their residuals."""
    charts = []
    for target, truth, predicted in told.numbers()[:SHOWN_TARGETS]:
        some = slice(None, None, -(-len(truth) // DOTS))
        truth, predicted = truth[some], predicted[some]
        r, low_high = truth - predicted, span(truth, predicted)
        chart = Chart(low_high, low_high, (f"predicted {target.name}", "true"))
        chart.line(low_high, low_high, "even").dots(predicted, truth, "first")
        words = f"correlation {_correlation(truth, predicted)}"
        title = f"True and predicted {target.name}"
        charts.append(figure(title, chart.svg(title, words), [("even", "equal")]))
        across = span(predicted)
        chart = Chart(across, span(r, [0.0]), (f"predicted {target.name}", "true - predicted"))
        chart.line(across, [0, 0], "even").dots(predicted, r, "first")
        quartiles = ", ".join(map(number, np.quantile(r, (0.25, 0.5, 0.75)).tolist()))
        title = f"Residuals of {target.name}"
        charts.append(figure(title, chart.svg(title, f"quartiles {quartiles}")))
    if not charts or told.sample is None:
        return None
    n = min(DOTS, len(told.sample.Y))
    words = f"{n:,} {told.sample.name}. A residual is the true number less the predicted one."
    words += _first_of(told)
    return section("Residuals", tag("p", words), tag("div", join(charts), class_="charts"))


def _correlation(a: np.ndarray, b: np.ndarray) -> str:
    if len(a) < 2 or not a.std() or not b.std():
        return "not defined"
    return number(float(np.corrcoef(a, b)[0, 1]))


def _first_of(told: Account) -> str:
    """A note if only the first targets have charts; else empty."""
    n = len(columns_of(told.model.target))
    return f" Charts are of the first {SHOWN_TARGETS} of {n} targets." if n > SHOWN_TARGETS else ""
