"""Options about tables: what is predicted, which rows count, how text is read, what is shown."""

import io
import json
import re
import sqlite3
import sys
from contextlib import closing

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")
from nnaccel.cli.options import Parser
from nnaccel.cli.outputs import plain
from nnaccel.cli.score_tables import single
from nnaccel.tabular.model import Model
from nnaccel.tabular.table_files import read_table
from tests.cli.examples import QUICK, columns, write

N = 120
RNG = np.random.default_rng(5)
X = np.round(RNG.normal(size=N), 3)
FEW = ("--hidden", "32", "--epochs", "40")


def cells(line):
    """The cells of a line of a table that is shown."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def text(path, separator, *lines):
    path.write_text("\n".join(separator.join(map(str, line)) for line in lines) + "\n")
    return path.name


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of two labels, of two numbers, and of one label of two classes, and their table."""
    from nnaccel.cli.main import main

    folder = tmp_path_factory.mktemp("models")
    table = {
        "x": X.tolist(),
        "id": [f"{i:03}" for i in range(N)],
        "a": (2 * X).tolist(),
        "b": (3 - X).tolist(),
        "up": np.where(X > 0, "yes", "no").tolist(),
        "far": (np.abs(X) > 0.7).tolist(),
    }
    source = write(folder / "d.csv", table)
    for name, target in (("numbers", "a b"), ("labels", "up far"), ("up", "up")):
        others = {"a", "b", "up", "far"} - {*target.split()}
        argv = ["--target", *target.split(), "--drop", "id", *others, *FEW]
        assert main(["train", source, *argv, "--output", f"{folder}/{name}"]) == 0
    return folder


# ---------------------------------------------------------------------------- targets and weights


def test_several_numbers(run, models):
    out = run("evaluate", models / "numbers", models / "d.csv")
    shown = {row[0]: row[1:] for row in map(cells, out.splitlines()) if row}
    assert float(shown["a: R²"][0]) > 0.9
    assert float(shown["b: R²"][0]) > 0.9
    assert shown["a: RMSE"][1].endswith(" always the mean")
    assert run("predict", models / "numbers", models / "d.csv").splitlines()[0] == '"a","b"'
    assert "regression of 'a', 'b' (mean " in run("inspect", models / "numbers")


def test_several_labels(run, here, models):
    out = run("evaluate", models / "labels", models / "d.csv")
    for title in ("accuracy of all", "up: each class", "far: confusion matrix: true classes"):
        assert title in out
    run("predict", models / "labels", models / "d.csv", "--proba", "--output", "p.parquet")
    found = read_table("p.parquet")[0]
    assert found.column_names == [
        "up", "far", "up=no", "up=yes", "far=false", "far=true",
    ]  # fmt: skip
    right = np.mean(np.array(found["up"]) == np.where(X > 0, "yes", "no"))
    assert right > 0.9
    np.testing.assert_allclose(np.array(found["up=no"]) + np.array(found["up=yes"]), 1)


def test_targets_that_do_not_go_together(error, here):
    write("d.csv", columns(), name=None)
    assert error("train", "d.csv", "--target", "price", "label") == (
        "several targets must all be numbers, or all have two classes, got 'price' (numbers), "
        "'label' (two classes); train a model for each, or set --task"
    )
    assert error("train", "--target", "price", "d.csv").startswith(
        "train needs a SOURCE: a file or a built-in data set such as digits; it comes before"
    )


def test_rows_of_no_weight_teach_nothing_and_do_not_score(run, error, here):
    x, y = np.tile(X, 2), np.tile(X, 2)
    weights = np.repeat([1, 0], N)
    y[N:] = -50
    write("d.csv", {"x": x.tolist(), "w": weights.tolist(), "y": y.tolist()})
    run("train", "d.csv", "--target", "y", "--weights", "w", *FEW, "--test", "d.csv")
    model = Model.load("d.safetensors")
    assert model.features.columns == ("x",)
    weighed = run("evaluate", "d.safetensors", "d.csv", "--weights", "w")
    assert f"{model.scores['RMSE']:.4f}" in weighed
    assert model.scores["RMSE"] < 5 < 30 < model.evaluate(pa.table({"x": x}), y)["RMSE"]
    text(here / "c.csv", ";", ("x", "w", "y"), *((v, "0,5", v) for v in X))
    run("train", "c.csv", "--target", "y", "--weights", "w", *QUICK)
    assert error("train", "d.csv", "--target", "y", "--weights", "v") == (
        "no column named 'v' for weights; columns: x, w"
    )
    assert error("train", "d.csv", "--target", "w", "--weights", "y").startswith(
        "weights 'y' must be finite numbers of at least 0, got '-"
    )
    write("two.csv", {"w": [1] * 2 * N, "y": y.tolist()})
    assert error("train", "two.csv", "--target", "y", "--weights", "w") == (
        "weights 'w' are the only column besides the target; add others"
    )
    write("zero.csv", {"x": x.tolist(), "w": [0] * 2 * N, "y": y.tolist()})
    assert error("train", "zero.csv", "--target", "y", "--weights", "w") == (
        "weights 'w' are all 0; some rows must count"
    )
    write("one.csv", {"x": x.tolist(), "w": [1] + [0] * (2 * N - 1), "y": y.tolist()})
    assert re.fullmatch(
        "all rows of the (train|test) part have weight 0; another --seed may help",
        error("train", "one.csv", "--target", "y", "--weights", "w"),
    )
    write("t.csv", {"x": x.tolist(), "w": ["many"] * 2 * N, "y": y.tolist()})
    assert error("train", "t.csv", "--target", "y", "--weights", "w") == (
        "weights 'w' must be finite numbers of at least 0, got 'many' in row 0 (from 0); "
        "correct or remove it"
    )


# ---------------------------------------------------------------------------- reading


@pytest.mark.parametrize(("option", "separator"), [("tab", "\t"), ("space", " "), (":", ":")])
def test_a_separator_that_is_named(run, here, option, separator):
    header, *rows = ("x", "k", "y"), *((v, "pq"[i % 2], 2 * v) for i, v in enumerate(X))
    text(here / "d.txt", separator, header, *rows)
    out = run("train", "d.txt", "--target", "y", "--delimiter", option, *QUICK)
    assert out.splitlines()[1].startswith("columns: 1 number, 1 category; read with separator ")
    text(here / "new.txt", separator, header, *rows[:3])
    found = run("predict", "d.safetensors", "new.txt", "--delimiter", option)
    assert len(found.splitlines()) == 1 + 3


def test_a_separator_is_one_character(error, here):
    message = "--delimiter must be one character, tab or space, got '::'"
    assert error("train", "d.csv", "--target", "y", "--delimiter", "::") == message


def test_a_header_and_an_encoding_that_are_named(run, here):
    rows = [(v, f"straße {i % 3}", v) for i, v in enumerate(X)]
    content = "\n".join(",".join(map(str, row)) for row in rows)
    (here / "d.csv").write_bytes(content.encode("cp850"))
    how = ("--header", "no", "--encoding", "cp850")
    out = run("train", "d.csv", "--target", "column2", *how, *QUICK)
    assert out.splitlines()[1] == (
        "columns: 1 number, 1 category; read with separator ',' and no header"
    )
    assert run.err == ""
    levels = Model.load("d.safetensors").features.categorical[0].levels
    assert levels == ("straße 0", "straße 1", "straße 2")
    assert len(run("predict", "d.safetensors", "d.csv", *how).splitlines()) == 1 + N


def test_a_model_tells_a_header_from_a_row(run, here):
    """All cells are text, so that nothing else shows which the first line is."""
    rows = [("pq"[i % 2], "uv"[i // 2 % 2], ("no", "yes")[i % 2]) for i in range(N)]
    text(here / "d.csv", ",", ("a", "b", "y"), *rows)
    run("train", "d.csv", "--target", "y", *QUICK, "--header", "yes")
    text(here / "new.csv", ",", ("a", "b"), *(row[:2] for row in rows[:4]))
    assert len(run("predict", "d.safetensors", "new.csv").splitlines()) == 1 + 4
    text(here / "none.csv", ",", *rows)
    run("train", "none.csv", "--target", "column2", *QUICK, "--header", "no")
    assert len(run("predict", "none.safetensors", "none.csv").splitlines()) == 1 + N
    run("train", "d.csv", "--target", "y", "--test", "d.csv", *QUICK, "--force")
    assert f"{N} test" in run.out


def test_columns_without_a_header_have_the_same_names_however_many_there_are(run, here):
    rows = [(*RNG.normal(size=11).round(3), v) for v in X]
    text(here / "d.csv", ",", *rows)
    text(here / "new.csv", ",", *(row[:11] for row in rows))
    run("train", "d.csv", "--target", "column11", *QUICK)
    assert len(run("predict", "d.safetensors", "new.csv").splitlines()) == 1 + N


def test_decimal_commas_and_codes(run, error, here):
    far = [-9999 if i % 10 == 0 else v for i, v in enumerate(X)]
    rows = [(v, f, v) for v, f in zip(X, far, strict=True)]
    rows = [[str(cell).replace(".", ",") for cell in row] for row in rows]
    text(here / "d.csv", ";", ("comma", "far", "y"), *rows)

    def read(*options):
        run("train", "d.csv", "--target", "y", *options, *QUICK, "--force")
        return Model.load("d.safetensors").features.readings

    found = read("--decimal", ",")
    assert "; decimal comma; read with separator ';' and line 1 as header" in run.out
    assert found["comma"].form == ","
    assert found["far"].codes == (-9999.0,)
    assert "\ntaken as missing: -9999 in far\n" in run.out
    assert [row for row in map(cells, run("inspect", "d.safetensors").splitlines())
            if row[:2] == ["comma", "numbers, decimal comma"]]  # fmt: skip
    assert "numbers, decimal comma, missing: -9999" in run.out
    assert read("--missing", "none")["far"].codes == ()
    assert "taken as missing" not in run.out
    assert read("--missing", "-9999", "-1e20", "7")["far"].codes == (-9999.0, -1e20, 7.0)
    line = error("train", "d.csv", "--target", "y", "--missing", "few")
    assert line == "--missing must be numbers, or none, got 'few'"


def test_negative_numbers_are_no_options():
    parser = Parser()
    parser.add_argument("--missing", nargs="+")
    assert parser.parse_args(["--missing", "-1e20", "-.5", "-9"]).missing == ["-1e20", "-.5", "-9"]


def test_a_column_that_is_kept(run, error, here):
    write("d.csv", {"id": list(range(N)), "x": X.tolist(), "y": X.tolist()})
    run("train", "d.csv", "--target", "y", *QUICK)
    assert "column 'id' is dropped: it counts the rows, from 0 to 119; --keep 'id'" in run.err
    assert "\nnot used: id (it counts the rows, from 0 to 119)\n" in run.out
    run("train", "d.csv", "--target", "y", "--keep", "id", *QUICK, "--force")
    assert "not used" not in run.out
    line = error("train", "d.csv", "--target", "y", "--keep", "di", "--output", "other")
    assert line.startswith("no column named di to keep")


# ---------------------------------------------------------------------------- sources


def test_a_query_and_a_database(run, error, here):
    write("d.parquet", {"x": X.tolist(), "y": X.tolist()})
    query = "from 'd.parquet' where x > 0"
    out = run("train", query, "--target", "y", *QUICK, "--test", "from 'd.parquet'")
    assert out.startswith(f"query: regression of 'y', rows: {(X > 0).sum()} train, {N} test\n")
    n = len(run("predict", "query.safetensors", query).splitlines())
    assert n == 1 + (X > 0).sum()
    assert f"on {N} rows of from 'd.parquet'" in run(
        "evaluate", "query.safetensors", "from 'd.parquet'"
    )
    with closing(sqlite3.connect("shop.sqlite")) as connection:
        connection.execute("CREATE TABLE orders (x REAL, y REAL)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(v, v) for v in X.tolist()])
        connection.commit()
    run("train", "shop.sqlite:orders", "--target", "y", *QUICK)
    assert "model written to orders.safetensors" in run.out
    assert len(run("predict", "orders.safetensors", "shop.sqlite").splitlines()) == 1 + N
    long = query + f" and '{'a' * 400}' <> ''"
    assert len(run("predict", "query.safetensors", long).splitlines()) == n
    line = error("train", "drop table d", "--target", "y")
    assert line.startswith("a source must be a single SELECT, which writes nothing; got DROP")


def test_standard_input(run, error, models, monkeypatch):
    class Stream:
        def __init__(self, content):
            self.buffer = io.BytesIO(content)

    content = (models / "d.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", Stream(content))
    assert run("predict", models / "up", "-") == run("predict", models / "up", models / "d.csv")
    monkeypatch.setattr(sys, "stdin", Stream(b""))
    line = error("predict", models / "up", "-")
    assert line == "standard input is empty; expected a table with column names and rows"
    monkeypatch.setattr(sys, "stdin", Stream(b"x,k\n1,2\n3,4,5,6\n7,8\n"))
    line = error("predict", models / "up", "-", "--header", "yes", "--delimiter", ",")
    assert line.startswith("standard input: ")
    monkeypatch.setattr(sys, "stdin", None)
    assert error("predict", models / "up", "-").startswith("standard input is closed; ")
    line = error("evaluate", models / "up", models / "labels", "-")
    assert line == "standard input can be read once; name a FILE to compare models on"


# ---------------------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("y", "options", "line"),
    [
        (
            [1, 2, 3],
            (),
            "classification of 'y' (3 whole numbers; --task regression for quantities)",
        ),
        (
            range(30),
            (),
            "regression of 'y' (30 different whole numbers; --task classification for classes)",
        ),
        (range(60), (), "regression of 'y'"),
        ([0.5, 1, 2], (), "regression of 'y'"),
        (["p", "q"], (), "classification of 'y'"),
        ([1, 2, 3], ("--task", "regression"), "regression of 'y'"),
    ],
)
def test_the_plan_says_why_numbers_are_classes_or_not(run, here, y, options, line):
    y = [[*y][i % len(y)] for i in range(N)]
    write("d.csv", {"x": X.tolist(), "y": y})
    first = run("train", "d.csv", "--target", "y", *options, *QUICK).splitlines()[0]
    assert first.startswith(f"d: {line}, rows: ")


def test_the_plan_sums_up_the_columns(run, here):
    write("d.csv", {
        "x": X.tolist(),
        "day": [f"2024-01-{1 + i % 28:02}" for i in range(N)],
        "time": [f"{i % 24:02}:15" for i in range(N)],
        "k": ["pqr"[i % 3] for i in range(N)],
        "same": [1] * N,
        "y": X.tolist(),
    })  # fmt: skip
    lines = run("train", "d.csv", "--target", "y", *QUICK).splitlines()
    assert lines[1:3] == [
        "columns: 1 number, 1 category, 1 date, 1 time",
        "not used: same (constant)",
    ]
    shown = {tuple(row[:2]) for row in map(cells, run("inspect", "d.safetensors").splitlines())}
    assert {("time day sine", "times of day"), ("k", "text")} <= shown or {
        ("k", "text"),
        ("x", "numbers"),
    } <= shown
    assert any(row[1:] == ("dates, year-month-day",) for row in shown)


def test_the_plan_says_what_class_weights_do_to_probabilities(run, here):
    write("d.csv", {"x": X.tolist(), "y": ["p" if i % 4 else "q" for i in range(N)]})
    run("train", "d.csv", "--target", "y", "--class-weight", "balanced", *QUICK)
    assert (
        "\nclass weights: probabilities are those of balanced classes; --threshold of predict "
        "moves the border\n"
    ) in run.out


# ---------------------------------------------------------------------------- scores


def test_scores_stand_beside_those_of_a_constant_prediction(run, models):
    out = run("evaluate", models / "up", models / "d.csv")
    most = max((X > 0).sum(), (X <= 0).sum())
    name = "yes" if (X > 0).sum() == most else "no"
    row = next(row for row in map(cells, out.splitlines()) if row[:1] == ["accuracy"])
    assert row[2] == f"{most / N:.4f} always {name!r}"
    assert ["class", "rows", "precision", "recall", "F1"] in map(cells, out.splitlines())
    rows = [row[1] for row in map(cells, out.splitlines()) if row[:1] in (["no"], ["yes"])]
    assert rows[:2] == [str((X <= 0).sum()), str((X > 0).sum())]


def test_quantiles_have_scores_of_their_own(run, here):
    write("d.csv", {"x": X.tolist(), "y": X.tolist()})
    how = ("--loss", "pinball", "--quantile", "0.9")
    out = run("train", "d.csv", "--target", "y", *how, *FEW)
    assert [row[0] for row in map(cells, out.splitlines()) if row][-5:-1] == [
        "score", "─" * len(next(line for line in out.splitlines() if line.startswith("──"))),
        "pinball loss", "coverage",
    ]  # fmt: skip
    assert "always the quantile" in out


def test_labels_that_end_in_blanks_are_in_quotes(run, here):
    write("d.csv", {"x": X.tolist(), "y": ["cat ", "dog"] * 60})
    assert "\n'cat '   " in run("train", "d.csv", "--target", "y", *QUICK)


def test_scores_as_json(run, error, here, models):
    write("d.csv", columns(), name=None)
    run("train", "d.csv", "--target", "label", "--json", "s.json", *QUICK)
    found = json.loads((here / "s.json").read_text())
    assert found["rows"] == {"train": 96, "validation": 0, "test": 24}
    assert (found["task"], found["target"]) == ("classification", ["label"])
    assert found["classes"] == {"label": ["no", "yes"]}
    assert single(found["scores"]) == Model.load("d.safetensors").scores
    assert np.sum(found["scores"]["confusion matrix"]) == 24
    model, data = str(models / "up"), str(models / "d.csv")
    found = json.loads(run("evaluate", model, data, "--json", "-"))
    assert run.err == ""
    assert (found["file"], found["rows"]) == (data, N)
    assert [each["model"] for each in found["models"]] == [model]
    run("evaluate", model, data, "--json", "e.json")
    assert "confusion matrix" in run.out
    assert json.loads((here / "e.json").read_text()) == found
    (here / "link.csv").symlink_to("d.csv")
    line = error("train", "d.csv", "--target", "label", "--json", "link.csv")
    assert line == "link.csv is read by this command; choose another --json"
    assert "give --json the name of a file" in error("train", "iris", "--json", "-")
    line = error("evaluate", model, data, "--json", "d.safetensors")
    assert line == "d.safetensors is a model file; choose another --json"
    line = error("train", "iris", "--output", "m", "--json", "m")
    assert line == "--output and --json both name m; choose another --json"


def test_json_knows_no_nan():
    data = {"a": np.float32(0.5), "b": [np.nan, np.array([1, 2])], 3: (float("inf"), True, "é")}
    assert json.dumps(plain(data)) == (
        r'{"a": 0.5, "b": [null, [1, 2]], "3": [null, true, "\u00e9"]}'
    )


def test_models_side_by_side(run, here, models):
    run("train", models / "d.csv", "--target", "up", "--drop", "id", "--output", "other", *QUICK)
    out = run("evaluate", models / "up", "other", models / "d.csv")
    rows = [*map(cells, out.splitlines())]
    assert ["score", str(models / "up"), "other"] in rows
    (accuracies,) = (row[1:] for row in rows if row[:1] == ["accuracy"])
    expected = []
    for path in (models / "up", "other"):
        found = json.loads(run("evaluate", path, models / "d.csv", "--json", "-"))
        expected.append(f"{found['models'][0]['scores']['accuracy']:.4f}")
    assert accuracies == expected


# ---------------------------------------------------------------------------- predictions


def test_columns_that_are_copied(run, error, models):
    run("predict", models / "up", models / "d.csv", "--with", "id", "x", "--proba")
    lines = run.out.splitlines()
    assert lines[0] == '"id","x","up","up=no","up=yes"'
    assert lines[1].startswith('"000",')
    assert lines[N].startswith(f'"{N - 1:03}",')
    assert error("predict", models / "up", models / "d.csv", "--with", "idd").startswith(
        "--with: no column named 'idd'; columns: x, id, "
    )
    rows = run("predict", models / "numbers", models / "d.csv", "--with", "up").splitlines()
    assert rows[0] == '"up","a","b"'


def test_a_copied_column_may_not_pass_for_a_prediction(run, error, here, models):
    write("d.csv", {"x": X.tolist(), "up=no": [1] * N})
    for name, *options in (("up=no", "--proba"), ("up",)):
        line = error("predict", models / "up", "d.csv", "--with", name, *options)
        assert line == f"--with: {name!r} is also the name of a prediction; leave it out"
    assert run("predict", models / "up", "d.csv", "--with", "up=no").startswith('"up=no","up"')


def test_a_threshold(run, error, models, here):
    def share(threshold):
        argv = (models / "up", models / "d.csv", "--threshold", threshold)
        return run("predict", *argv).count('"yes"') / N

    above = Model.load(models / "up").outputs({"x": X})[:, 1]
    for threshold in ("0", "0.2", "0.8"):
        assert share(threshold) == (above >= float(threshold)).mean()
    found = json.loads(
        run("evaluate", models / "up", models / "d.csv", "--threshold", "0", "--json", "-")
    )
    assert found["models"][0]["scores"]["recall"] == 1
    assert share("0") == 1
    line = error("predict", models / "numbers", models / "d.csv", "--threshold", "0.5")
    assert line == "--threshold is for two classes, and target 'a' has numbers"
    line = error("evaluate", models / "up", models / "d.csv", "--threshold", "1.5")
    assert line == "--threshold must be from 0 to 1, got 1.5"


def test_a_threshold_of_three_classes_is_refused(run, here):
    run("train", "iris", *QUICK)
    run("predict", "iris.safetensors", "iris", "--threshold", "0.5", status=2)
    assert run.err.endswith("--threshold is for two classes, and target 'species' has 3 classes\n")


def test_the_spread_of_the_networks_is_a_column(run, here, error):
    write("d.csv", columns(), name=None, label=None)
    run("train", "d.csv", "--target", "price", "--epochs", "3", "--members", "3")
    model, rows = Model.load("d.safetensors"), read_table("d.csv")[0].drop_columns("price")
    run("predict", "d.safetensors", "d.csv", "--spread", "--output", "p.parquet")
    found = read_table("p.parquet")[0]
    assert found.column_names == ["price", "price spread"]
    np.testing.assert_allclose(found["price spread"].to_numpy(), model.spread(rows), rtol=1e-6)
    shown = run("inspect", "d.safetensors")
    assert "out of fold" in shown
    assert "networks, each of " in shown
    run("train", "d.csv", "--target", "price", "--epochs", "1", "--members", "1", "--force")
    line = error("predict", "d.safetensors", "d.csv", "--spread")
    assert line == "--spread is for a model of several networks, and this one is of one"
