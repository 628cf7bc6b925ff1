"""`nnaccel explain`: tables, JSON and pictures of what a model makes of columns and rows."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

from nnaccel.cli.explanations import cell
from nnaccel.tabular.contributions import contributions
from nnaccel.tabular.importance import permutation_importance
from nnaccel.tabular.model import Model
from nnaccel.tabular.sources import read
from tests.cli.examples import columns, write


def test_the_tables(run, here, trained):
    out = run("explain", trained / "price", trained / "d.csv", "--repeats", 2)
    assert f"permutation importance on 120 rows of {trained}/d.csv: the harm to the R², 0." in out
    lines = out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("column "))
    assert lines[heading].split() == ["column", "importance", "spread"]
    assert lines[heading + 2].startswith("x [m] ")  # which decides
    assert out.count("partial dependence on ") == 3
    assert "partial dependence on x [m]: the mean prediction if all rows had that value" in out
    assert "(missing)" in out
    out = run("explain", trained / "label", trained / "d.csv", "--top", 1, "--score", "log_loss")
    assert out.count("partial dependence on ") == 1
    assert "P(yes)" in out
    assert ": the harm to the log loss, " in out
    assert run.err == ""


def test_json_has_all_of_it(run, here, trained):
    out = run("explain", trained / "label", trained / "d.csv", "--json", "-", "--top", 2)
    found = json.loads(out)
    model, examples = Model.load(trained / "label"), read(str(trained / "d.csv"), "label")
    expected = permutation_importance(model, examples.data, examples.y)
    assert (found["rows"], found["score"]) == (120, "accuracy")
    assert found["baseline"] == expected.baseline
    assert [one["column"] for one in found["importance"]] == [
        expected.columns[i] for i in expected.ranking
    ]
    for one in found["importance"]:
        i = expected.columns.index(one["column"])
        assert one["values"] == expected.values[i].tolist()
        assert (one["mean"], one["std"]) == (expected.mean[i], expected.std[i])
    curves = found["partial dependence"]
    assert [curve["column"] for curve in curves] == [
        one["column"] for one in found["importance"][:2]
    ]
    assert [*curves[0]["means"]] == ["P(yes)"]
    assert len(curves[0]["means"]["P(yes)"]) == len(curves[0]["values"])
    run("explain", trained / "label", trained / "d.csv", "--json", "o.json", "--top", 2)
    assert json.loads((here / "o.json").read_text()) == found


def test_some_of_the_rows(run, here, trained):
    common = ("explain", trained / "label", trained / "d.csv", "--top", 0, "--json", "-")
    found = json.loads(run(*common, "--rows", 50))
    assert found["rows"] == 50
    assert found["partial dependence"] == []
    assert json.loads(run(*common, "--rows", 50)) == found
    assert json.loads(run(*common, "--rows", 50, "--seed", 1)) != found


def test_one_row(run, here, trained):
    source = write(here / "new.csv", columns(), label=None, price=None)  # without a target
    write(here / "new.csv", columns(), label=None)
    out = run("explain", trained / "label", source, "--row", 3)
    model, data = Model.load(trained / "label"), read(source, "label", need_target=False).data
    [one] = contributions(model, data, 3)
    assert f"row 3: label = {one.label}, of probability {one.prediction:.4f}; log odds " in out
    assert "(missing)" in out
    found = json.loads(run("explain", trained / "label", source, "--row", 3, "--json", "-"))
    [said] = found["targets"]
    assert (said["prediction"], said["probability"]) == (one.label, one.prediction)
    each = {c["column"]: c["contribution"] for c in said["contributions"]}
    assert each == dict(zip(one.columns, one.values.tolist(), strict=True))
    sizes = np.abs([*each.values()])
    assert (np.diff(sizes) <= 0).all()
    out = run("explain", trained / "price", trained / "d.csv", "--row", 0)
    assert "row 0: price = " in out
    assert "of the average row " in out


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures(run, here, trained, suffix):
    pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")
    for model, options in (("price", ()), ("label", ("--row", 1)), ("label", ("--top", 0))):
        path = here / f"out.{suffix}"
        run("explain", trained / model, trained / "d.csv", "--plot", path, *options)
        assert run.err == f"{path} written\n"
        starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
        assert path.read_bytes().startswith(starts[suffix])
        assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plot", "out.gif"), "--plot must end in .png, .svg, .pdf, got out.gif"),
        (("--repeats", "0"), "--repeats must be at least 1, got 0"),
        (("--rows", "1"), "--rows must be at least 2, got 1"),
        (("--top", "-1"), "--top must be at least 0, got -1"),
        (("--seed", "4294967296"), "--seed must be below 2^32, got 4294967296"),
        (("--score", "r3"), "argument --score: invalid choice: 'r3'"),
        (("--score", "r2"), "score 'r2' is not for classification; choose one of accuracy, log_l"),
        (("--row", "120"), "row must be from 0 to 119, got 120"),
        (("--weights", "weight"), "no column named 'weight' for weights; columns: x [m]"),
    ],
)
def test_wrong_usage(error, trained, options, message):
    if "--plot" in options:
        pytest.importorskip("matplotlib", reason="pictures need the extra [plot]")
    assert error("explain", trained / "label", trained / "d.csv", *options).startswith(message)


def test_a_file_without_the_target(error, here, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabelled")
    source = write(folder / "new.csv", columns(), label=None)
    line = error("explain", trained / "label", source)
    assert line.startswith(f"{source}: no column named 'label'; columns: x [m], c=c, flag, name")


def test_without_matplotlib(error, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert error("explain", trained / "label", trained / "d.csv", "--plot", "out.png") == (
        "matplotlib is needed here and is not installed; install it with: python -m pip install "
        "'nnaccel[plot]'"
    )


def test_what_is_read_is_not_overwritten(error, here, trained):
    for option, name in (("--json", "d.csv"), ("--json", "label")):
        path = trained / name
        line = error("explain", trained / "label", trained / "d.csv", option, path)
        assert line == f"{path} is read by this command; choose another --json"


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (None, "number", "(missing)"),
        (1234.5678, "number", "1234.57"),
        (1.0, "boolean", "true"),
        (86_400.0, "date", "1970-01-02"),
        (-3600.0, "date", "1969-12-31 23:00:00"),
        (3661.0, "time", "01:01:01"),
        (90_061.0, "duration", "1 days 01:01:01"),
        ("a b", "string", "a b"),
    ],
)
def test_values_are_shown_as_they_would_be_in_a_table(value, kind, shown):
    assert cell(value, kind) == shown
