"""The report of a run: what it says is so, it is sound HTML, and nothing in a table is markup."""

import re
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
pytest.importorskip("rich", reason="the report needs the extra [cli]")

import nnaccel as nn
from nnaccel.cli.display import number
from nnaccel.reporting.account import account_of, missing_values
from nnaccel.reporting.html import tag
from nnaccel.reporting.page import page
from nnaccel.tabular.sources import Examples

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
ONE = {"members": 1, "hidden": (4,), "epochs": 3}
EVIL = "<script>alert('x')</script>&\"\x1b]0;\u202e"


class Page(HTMLParser):
    """The parts of a page; AssertionError for elements that are not closed in their order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words, self.tables = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "table":
            self.tables.append([])
        if name == "tr":
            self.tables[-1].append([])
        if name in ("td", "th"):
            self.tables[-1][-1].append("")
        if name != "meta":
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & {*self.open}:
            self.tables[-1][-1][-1] += data

    def names(self):
        return Counter(name for name, _ in self.elements)

    def table(self, *header):
        """The rows below a header."""
        [found] = [rows[1:] for rows in self.tables if rows[0][: len(header)] == [*header]]
        return found

    @property
    def text(self):
        return " ".join(self.words)


def examples(data, y, **more):
    return Examples("table", pa.table(data), y, "y", None, "auto", None, **more)


def trained(data, y, test_fraction=0.25, **settings):
    fit = nn.Fit(examples(data, y), nn.Settings(**settings), test_fraction=test_fraction)
    for _ in fit:
        pass
    return fit


def columns(n=120, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n))
    kind = np.array(["x", "y"])[(b > 0).astype(int)]
    gone = rng.random(n) < 0.2
    data = {
        "a": [None if without else v for v, without in zip(a.tolist(), gone, strict=True)],
        EVIL: kind.tolist(),
    }
    return data, a, b


@pytest.fixture(scope="module")
def of_classes():
    data, a, b = columns()
    labels = np.array(["<b>no</b>", "maybe", EVIL.replace("\x1b", "")])[
        (a > 0).astype(int) + (b > 0.5)
    ]
    fit = trained(data, labels, members=2, hidden=(4,), epochs=3)
    told = account_of(fit, command="nnaccel train '<x>'", seconds=1.25, warnings=["<i>odd</i>"])
    return told, Page(page(told, NOW))


@pytest.fixture(scope="module")
def of_numbers():
    data, a, b = columns()
    told = account_of(trained(data, 100 * a + b, **ONE))
    return told, Page(page(told, NOW))


def test_it_needs_no_network_and_runs_no_script(of_classes):
    _, found = of_classes
    names = found.names()
    assert names["script"] == names["img"] == names["link"] == names["iframe"] == 0
    policies = [a["content"] for n, a in found.elements if n == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    places = [a[key] for _, a in found.elements for key in ("href", "src") if key in a]
    ids = {a["id"] for _, a in found.elements if "id" in a}
    assert {place.removeprefix("#") for place in places} == ids
    assert not any(key.startswith("on") for _, a in found.elements for key in a)


def test_what_a_table_holds_is_text(of_classes):
    told, found = of_classes
    text = page(told, NOW)
    assert "<script" not in text
    assert "<b>no</b>" not in text
    assert "<i>odd</i>" not in text
    assert "<b>no</b>" in found.text  # as words
    assert "nnaccel train '<x>'" in found.text
    shown = EVIL.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert shown in [row[0] for row in found.table("column", "importance")]
    assert not re.search("[\x00-\x08\x1b\u202e]", text)


def test_attributes_are_escaped():
    assert tag("td", "a<b", title='"><script>', class_="c") == (
        '<td title="&quot;&gt;&lt;script&gt;" class="c">a&lt;b</td>'
    )


def test_it_can_be_read_without_seeing_it(of_classes):
    _, found = of_classes
    names = found.names()
    assert names["caption"] == names["table"] > 0
    pictures = [a for n, a in found.elements if n == "svg" and a.get("aria-hidden") != "true"]
    assert pictures
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in pictures)
    assert all("scope" in a for n, a in found.elements if n == "th")
    assert all(cell for rows in found.tables for cell in rows[0])  # the names of the columns
    assert names["h1"] == names["main"] == names["nav"] == 1
    assert ("html", {"lang": "en"}) in found.elements


def test_scores_stand_beside_a_constant_prediction(of_classes):
    told, found = of_classes
    scores = told.fit.evaluate(told.model)
    constant = next(n for n in scores if n.startswith("accuracy of always "))
    rows = {name: cells for name, *cells in found.table("score", "value", "constant prediction")}
    assert rows["accuracy"][0] == number(scores["accuracy"])
    assert rows["accuracy"][1].startswith(f"{number(scores[constant])} always ")
    assert rows["log loss"] == [number(scores["log loss"]), ""]
    unseen = {name: cells for name, *cells in found.table("score", "value", "spread")}
    assert unseen["log loss"] == [
        number(told.model.scores["out-of-fold log loss"]),
        number(told.model.scores["out-of-fold log loss, spread"]),
    ]


def test_the_confusion_matrix_is_that_of_the_test(of_classes):
    told, found = of_classes
    matrix = told.scores["confusion matrix"]
    rows = found.table("true \\ predicted")
    for row, counts in zip(rows, matrix, strict=True):
        shares = [f"{100 * n / counts.sum():.0f}{n}" if n else "" for n in counts]
        assert row[1:] == [*shares, str(counts.sum())]


def test_the_importance_is_that_of_the_test_rows(of_classes):
    told, found = of_classes
    n = told.fit.rows["test"]
    assert f"{number(told.importance.baseline)} on {n} test rows" in found.text
    assert [row[:2] for row in found.table("column", "importance")] == [
        [
            told.importance.columns[i].replace("\x1b", r"\x1b").replace("\u202e", r"\u202e"),
            number(float(told.importance.mean[i])),
        ]
        for i in told.importance.ranking
    ]


def test_columns_say_how_many_values_were_missing(of_classes):
    told, found = of_classes
    rows = {name: cells for name, *cells in found.table("column", "read as", "missing")}
    n = missing_values(told.fit)["a"]
    assert 0 < n < told.fit.rows["train"]
    assert rows["a"][:2] == ["numbers", f"{n:,} ({n / told.fit.rows['train']:.1%})"]
    assert [cells[1] for name, cells in rows.items() if name != "a"] == ["none"]


def test_it_says_what_was_run(of_classes):
    _, found = of_classes
    for words in (
        "Classification of 'y'",
        "2024-05-06 07:08:09+00:00",
        f"nnaccel {nn.__version__}",
        "1.25 s of training",
        "<i>odd</i>",
        "90 train, 30 test",
        "best: epoch",
        "in batches of",
    ):
        assert words in found.text, words


def test_residuals_are_those_of_the_test_rows(of_numbers):
    told, found = of_numbers
    [(target, truth, predicted)] = told.numbers()
    assert (target.name, len(truth)) == ("y", told.fit.rows["test"])
    assert np.sqrt(np.mean((truth - predicted) ** 2)) == pytest.approx(told.scores["RMSE"])
    assert "Residuals of y" in found.text
    quartiles = [number(q) for q in np.quantile(truth - predicted, (0.25, 0.5, 0.75)).tolist()]
    words = f"Residuals of y: quartiles {', '.join(quartiles)}"
    assert words in [a.get("aria-label") for n, a in found.elements if n == "svg"]
    assert "confusion" not in found.text


def test_a_chart_has_a_dot_for_each_row(of_numbers):
    told, found = of_numbers
    paths = [a["d"] for n, a in found.elements if n == "path" and a.get("class") == "dots first"]
    assert [d.count("h0") for d in paths] == [told.fit.rows["test"]] * 2


def test_many_classes_show_their_confusions():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(24), 10)
    fit = trained({"a": (y // 2 + rng.normal(size=240) / 9).tolist()}, y.astype(str), **ONE)
    told = account_of(fit)
    rows = Page(page(told, NOW)).table("true class", "predicted", "rows")
    matrix = np.array(told.scores["confusion matrix"])
    wrong = matrix - np.diag(np.diag(matrix))
    names = [*told.model.target.classes]
    assert int(rows[0][2]) == wrong.max() > 0
    assert matrix[names.index(rows[0][0]), names.index(rows[0][1])] == wrong.max()
    assert len(rows) == min(20, np.count_nonzero(wrong))


def test_several_targets_have_a_part_each():
    data, a, b = columns()
    for y in (
        pa.table({"p": a, "q": 1000 * b}),
        pa.table({"p": (a > 0).tolist(), "q": np.where(b > 0, "<u>", "no").tolist()}),
    ):
        example = Examples("table", pa.table(data), y, "p, q", None, "auto", None)
        fit = nn.Fit(example, nn.Settings(**ONE))
        for _ in fit:
            pass
        told = account_of(fit)
        found = Page(page(told, NOW))
        of_labels = told.model.target.task == "labels"
        for name in ("p", "q"):
            assert f"{'Calibration' if of_labels else 'Residuals'} of {name}" in found.text
        score = "accuracy" if of_labels else "RMSE"
        rows = {name: value for name, value, _ in found.table("score", "value")}
        assert rows[f"q: {score}"] == number(told.scores[f"q: {score}"])


def test_of_many_targets_the_first_have_charts():
    data, a, b = columns()
    y = pa.table({f"t{k}": a * k + b for k in range(6)})
    example = Examples("table", pa.table(data), y, ", ".join(y.column_names), None, "auto", None)
    fit = nn.Fit(example, nn.Settings(**ONE))
    for _ in fit:
        pass
    found = Page(page(account_of(fit), NOW))
    assert "Charts are of the first 4 of 6 targets." in found.text
    assert [f"Residuals of t{k}" in found.text for k in range(6)] == [True] * 4 + [False] * 2


def test_without_test_rows_it_tells_of_those_out_of_fold():
    data, a, b = columns()
    settings = {"members": 3, "hidden": (4,), "epochs": 2}
    told = account_of(trained(data, a > 0, test_fraction=0, **settings))
    scores = told.model.scores
    found = Page(page(told, NOW))
    matrix = np.array(told.sample.scores["confusion matrix"])
    right = np.trace(matrix) / matrix.sum()
    assert right == pytest.approx(scores["out-of-fold accuracy"])
    assert found.table("true \\ predicted")[0][-1] == str(matrix[0].sum())
    assert "training rows, each predicted by the network that has not seen it" in found.text
    assert "accuracy, out of fold" in found.text
    told = account_of(trained(data, a + b, test_fraction=0, **settings))
    [(_, truth, predicted)] = told.numbers()
    rmse = np.sqrt(np.mean((truth - predicted) ** 2))
    assert rmse == pytest.approx(told.model.scores["out-of-fold RMSE"])
    assert "Residuals of y" in Page(page(told, NOW)).text


def test_without_rows_that_were_not_trained_on_it_says_so():
    data, a, _ = columns()
    found = Page(page(account_of(trained(data, a, test_fraction=0, **ONE)), NOW))
    assert "Residuals" not in found.text
    assert "No importance of the columns: there are no test rows." in found.text
    assert "120 train" in found.text
    assert "Training" in found.text


def test_rows_that_are_all_right_are_calibrated_so():
    from nnaccel.reporting.on_predictions import _calibration
    from nnaccel.tabular.targets import fit_target

    target = fit_target(np.array(["a", "b", "c"]), "classification", "y")
    P = np.tile([0.8, 0.1, 0.1], (40, 1))
    for codes, share in ((np.zeros(40, int), "1.00"), (np.ones(40, int), "0.00")):
        chart = _calibration(target, codes, P, several=False)
        assert f"probability to share: 0.80 to {share}" in chart


def test_importance_that_cannot_be_had_is_a_sentence():
    data, a, _ = columns()
    y = np.where(np.arange(120) < 90, a, 0.0)
    rows = examples(data, y).rows
    train, test = rows.take(np.arange(90)), rows.take(np.arange(90, 120))
    split = examples(train.data, train.y)._replace(test=test)
    fit = nn.Fit(split, nn.Settings(**ONE))
    for _ in fit:
        pass
    told = account_of(fit)
    assert told.importance == ("R² needs rows with different targets; choose another score")
    assert f"No importance of the columns: {told.importance}." in Page(page(told, NOW)).text


def test_an_interrupted_run_tells_what_it_has_come_to():
    data, a, _ = columns()
    fit = nn.Fit(examples(data, a), nn.Settings(members=2, numbers="both", epochs=3, hidden=(4,)))
    assert len(fit.branches) == 2
    epochs = iter(fit)
    next(epochs), next(epochs)
    found = Page(page(account_of(fit), NOW))
    assert "2 of at most 6" in found.text
    pictures = [attributes.get("aria-label", "") for _, attributes in found.elements]
    assert len([words for words in pictures if "by epoch, 2 epochs" in words]) == 2
    assert "Loss, numbers plain" in found.text
    assert "Loss, numbers piecewise" not in found.text


def test_a_written_page_is_whole(tmp_path, of_numbers):
    told, _ = of_numbers
    nn.report(told.fit, tmp_path / "r.html", model=told.model, scores=told.scores)
    found = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Regression of 'y'" in found.text
    assert [child.name for child in tmp_path.iterdir()] == ["r.html"]


def test_a_run_before_its_first_epoch_has_no_report(tmp_path):
    data, a, _ = columns()
    with pytest.raises(RuntimeError, match="the model has not been trained; iterate over the fit"):
        nn.report(nn.Fit(examples(data, a), nn.Settings(**ONE)), tmp_path / "r.html")
    assert [*tmp_path.iterdir()] == []


def test_a_run_on_another_device_says_which():
    pytest.importorskip("torch", reason="the device is PyTorch's")
    data, a, _ = columns()
    fit = nn.Fit(examples(data, a), nn.Settings(**ONE), device=nn.select("torch"))
    for _ in fit:
        pass
    told = account_of(fit)
    assert np.isfinite(told.importance.values).all()
    assert "torch:cpu, " in Page(page(told, NOW)).text
