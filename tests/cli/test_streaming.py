"""--stream: the same models, predictions and scores, of tables that are never whole in memory."""

import json
import os

import numpy as np
import pytest

from tests.cli.examples import QUICK, columns, write

pytest.importorskip("duckdb", reason="the command line needs the extra [cli]")
from pyarrow import csv

from nnaccel.tabular.streamed import examples, parts

TRAIN = ("--target", "label", "--drop", "name", "price", *QUICK)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(parts, "BATCH", 50)


@pytest.mark.usefixtures("small_batches")
def test_a_folder_is_trained_on_predicted_and_scored(here, run):
    (here / "parts").mkdir()
    for i in range(6):
        write(here / "parts" / f"{i}.parquet", columns(i))
    out = run("train", "parts", "--stream", *TRAIN, "--output", "m", "--json", "s.json")
    assert "rows: encoded, " in out
    assert ".rows, read in 1 window an epoch; one network" in out
    [rows] = here.glob("parts-*.rows")
    scores = json.loads((here / "s.json").read_text())
    assert sum(scores["rows"].values()) == 720
    out = run("train", "parts", "--stream", *TRAIN, "--output", "n")
    assert "rows: as an earlier run has encoded them, " in out
    assert [*here.glob("*.rows")] == [rows]
    out = run("train", "parts/[0-3].parquet", "--stream", *TRAIN, "--output", "o")
    assert "0-3: classification of 'label'" in out
    run("predict", "m", "parts", "--stream", "--with", "x [m]", "--proba", "--output", "p.csv")
    assert "720 predictions written to p.csv" in run.err
    run("evaluate", "m", "parts", "--stream", "--json", "all.json")
    assert json.loads((here / "all.json").read_text())["rows"] == 720


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
def test_predictions_are_those_of_the_table_read_whole(trained, here, run, suffix):
    source = write(here / "d.parquet", columns(3))
    for model, options in (("label", ("--proba",)), ("price", ("--spread", "--with", "flag"))):
        if options[0] == "--spread":
            run("train", source, "--target", "price", "--members", "2", *QUICK, "--output", "five")
            model = here / "five"
        else:
            model = trained / model
        found = []
        for name, how in (("a", ()), ("b", ("--stream",))):
            run("predict", model, source, *options, *how, "--output", f"{name}.{suffix}")
            assert "120 predictions written" in run.err
            found.append(pa_table(here / f"{name}.{suffix}"))
        assert found[0].schema == found[1].schema
        for name in found[0].column_names:
            one, other = (table[name].to_pylist() for table in found)
            if isinstance(one[0], float):
                np.testing.assert_allclose(other, one, rtol=1e-5)
            else:
                assert other == one
    whole, streamed = (
        run("predict", trained / "label", source, *how) for how in ((), ("--stream",))
    )
    assert streamed == whole


def pa_table(path):
    from pyarrow import feather, parquet

    readers = {".csv": csv.read_csv, ".parquet": parquet.read_table}
    return readers.get(path.suffix, feather.read_table)(path)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("model", ["label", "price"])
def test_scores_are_those_of_the_table_read_whole(trained, here, run, model):
    table = columns(3)
    table["label"][7] = None
    table["price"][9] = None
    source = write(here / "d.parquet", table)
    found = []
    for how in ((), ("--stream",)):
        run("evaluate", trained / model, source, *how, "--json", "s.json")
        assert f"1 rows without a '{model}' are left out" in run.err
        found.append(json.loads((here / "s.json").read_text()))
    assert found[0]["rows"] == found[1]["rows"] == 119
    one, other = (each["models"][0]["scores"] for each in found)
    assert [*one] == [*other]
    for name, value in one.items():
        if isinstance(value, float):
            assert other[name] == pytest.approx(value, rel=1e-3), name


def test_warnings_are_those_of_the_table_read_whole(trained, here, run, monkeypatch):
    """Counted over all batches, though some have no cell that can be read."""
    monkeypatch.setattr(parts, "BATCH", 10)
    table = {name: list(map(str, cells)) for name, cells in columns(3).items()}
    table["x [m]"] = ["none" if cell == "None" else cell for cell in table["x [m]"]]
    table["x [m]"][20:30] = ["garbage"] * 10
    source = write(here / "d.parquet", table)
    run("predict", trained / "price", source)
    expected = run.err
    assert "column 'x [m]': 10 cells that cannot be read are missing: 'garbage'" in expected
    run("predict", trained / "price", source, "--stream")
    assert run.err == expected


def test_a_column_without_a_single_readable_cell_is_an_error(trained, here, error):
    table = columns(3) | {"x [m]": ["garbage"] * 120}
    source = write(here / "d.parquet", table)
    for how in ((), ("--stream",)):
        message = error("predict", trained / "price", source, *how, "--output", "p.csv")
        assert "column 'x [m]' held numbers when the model was fitted, now it holds text" in message


def test_a_file_that_is_too_large_is_streamed_by_itself(here, run, monkeypatch):
    source = write(here / "d.parquet", columns())
    monkeypatch.setattr(examples, "memory_free", lambda: 10_000)
    out = run("train", source, *TRAIN, "--output", "m")
    assert "d.parquet would take about" in run.err
    assert "of memory that are free: it is streamed, as with --stream" in run.err
    assert "one network" in out
    run("predict", "m", source)
    assert "it is streamed" in run.err
    monkeypatch.setattr(examples, "memory_free", lambda: 10_000_000)
    assert ".rows" not in run("train", source, *TRAIN, "--output", "n")
    assert "it is streamed" not in run.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("empty",), "the folder empty has no tables; expected .parquet, .feather, .arrow or text"),
        (("*.feather",), "no file matches '*.feather'"),
        (("digits",), "'digits' cannot be read a batch at a time; it is read whole; leave out"),
        (("d.csv", "--cache", "nowhere"), "--cache: there is no folder nowhere; make it first"),
        (("d.csv", "--test", "d.csv"), "--test is not for a streamed table; score the model with"),
        (("d.csv", "--members", "3"), "a streamed table trains one network; leave members out"),
        (("d.csv", "--target", "lable"), "d.csv: no column named 'lable'; columns: "),
        (
            ("parts", "--target", "y"),
            "1.csv lacks the target 'y', which parts/0.csv has; all files",
        ),
    ],
)
def test_what_cannot_be_streamed_is_said_in_one_line(here, error, argv, message):
    (here / "empty").mkdir()
    (here / "parts").mkdir()
    (here / "parts" / "0.csv").write_text("x,y\n1,2\n")
    (here / "parts" / "1.csv").write_text("x,z\n1,2\n")
    write(here / "d.csv", columns())
    target = () if "--target" in argv else ("--target", "label")
    assert message in error("train", *argv, *target, "--stream", *QUICK)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("parts", "parts is a folder, not a file; name one file inside it, or read all of its"),
        ("parts/*.csv", "parts/*.csv is a pattern for files; read them as one table with --stream"),
    ],
)
def test_folders_and_patterns_need_the_option(trained, here, error, source, message):
    (here / "parts").mkdir()
    assert message in error("train", source, "--target", "y")
    assert message in error("predict", trained / "label", source)
    assert message in error("evaluate", trained / "label", source)


def test_progress_says_what_is_done_and_left(capsys):
    from nnaccel.cli import display

    passes = display.Passes(display.console())
    for share in (0.1, 0.25):
        passes("encoding", share)
        passes._started -= 30
        passes._shown -= 30
    passes("encoding", 0.5)
    assert "encoding:  25%   1:30 left" in capsys.readouterr().out


def test_a_streamed_run_is_resumed(here, run):
    source = write(here / "d.parquet", columns())
    common = ("train", source, "--stream", *TRAIN[:5], "--hidden", "8")
    run(*common, "--epochs", "4", "--output", "whole", "--checkpoint", "w")
    run(*common, "--epochs", "4", "--output", "part", "--checkpoint", "c", "--every", "1")
    os.unlink("part")
    run(*common, "--epochs", "4", "--output", "part", "--resume", "c")
    assert (here / "part").read_bytes() == (here / "whole").read_bytes()
