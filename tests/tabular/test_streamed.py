"""Tables that are streamed: what is learnt of them is what is learnt in memory."""

import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
pytest.importorskip("duckdb", reason="tables need DuckDB (the extra [cli])")
from pyarrow import feather, parquet

from nnaccel import files
from nnaccel.tabular import (
    tables,
)
from nnaccel.tabular.delimited import Layout
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import read
from nnaccel.tabular.streamed import counts, examples, parts, sample, second_pass, targets, text
from nnaccel.tabular.streamed.counts import Moments
from nnaccel.tabular.streamed.examples import stream
from nnaccel.tabular.streamed.file import find_matrix
from nnaccel.tabular.streamed.sample import take_sample
from nnaccel.tabular.streamed.second_pass import scattered
from nnaccel.tabular.streamed.sources import Stream
from nnaccel.tabular.survey import NO_RULES, Rules
from nnaccel.training import checkpoint

from .random_tables import random_table, write

PLAIN = Settings(members=1, validation_fraction=0.0, hidden=(4,), epochs=2)
N = 3000


def columns(n=N, seed=0):
    """All kinds of columns, with gaps, strays and long tails."""
    rng = np.random.default_rng(seed)
    x, c = rng.standard_normal(n), rng.choice(["red", "green", "blue"], n)
    days = np.datetime64("2020-01-01") + rng.integers(0, 900, n).astype("m8[D]")
    y = np.where(x + (c == "red") + 0.3 * rng.standard_normal(n) > 0.5, "yes", "no")
    return {
        "x": [f"{v:.6f}" if i % 9 else "?" for i, v in enumerate(x)],
        "c": [v if i % 11 else "" for i, v in enumerate(c)],
        "many": [f"t{v}" for v in rng.zipf(1.5, n) % 300],
        "tail": [f"{v:.5g}" for v in np.exp(3 * rng.standard_normal(n))],
        "day": list(map(str, days)),
        "same": ["7"] * n,
        "row": list(map(str, range(5, 5 + n))),
        "y": list(y),
        "price": [f"{v:.4f}" for v in 3 * x + 100],
        "w": [f"{v:.3f}" for v in rng.uniform(0, 2, n)],
    }


def fitted(source, target, cache, settings=PLAIN, rules=NO_RULES, test_fraction=0.0, **how):
    with tables.quiet():
        examples = stream(source, target, cache=cache, **how)
        return Fit(examples, settings, rules=rules, test_fraction=test_fraction, kernels="numpy")


def told(examples, settings=PLAIN):
    """All that is learnt of a table, with the warnings; or the error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = Fit(examples(), settings, test_fraction=0.0, kernels="numpy")
        except ValueError as error:
            return str(error)
    messages = sorted(str(warning.message) for warning in caught)
    network = fit.branches[0].run.network
    return fit.features.to_dict(), fit.target.to_dict(), fit.rows, fit.hint, network, messages


@pytest.mark.parametrize("seed", range(60))
def test_a_small_table_is_encoded_as_in_memory(tmp_path, seed):
    cells, target = random_table(seed)
    path = write(cells, tmp_path / f"t{('.csv', '.parquet', '.feather')[seed % 3]}")
    expected = told(lambda: read(path, target))
    assert told(lambda: stream(path, target, cache=tmp_path)) == expected


@pytest.mark.parametrize("target", ["y", "price", ["price", "x"]])
def test_messy_columns_are_encoded_as_in_memory(tmp_path, target):
    path = write(columns(), tmp_path / "t.csv")
    expected = told(lambda: read(path, target))
    assert len(expected) == 6  # no error
    assert told(lambda: stream(path, target, cache=tmp_path)) == expected


@pytest.fixture
def small_samples(monkeypatch):
    """Samples of 500 rows, batches of 300, and windows of 16 KB."""
    monkeypatch.setattr(sample, "ROWS", 500)
    monkeypatch.setattr(parts, "BATCH", 300)
    monkeypatch.setattr(second_pass, "WINDOW", 2**14)


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("target", ["y", "price"])
def test_what_a_sample_cannot_tell_is_counted(tmp_path, target):
    cells = columns()
    cells["c"][2999] = "seldom"  # a level that no sample needs to have
    cells["price"][7] = ""
    path = write(cells, tmp_path / "t.parquet")
    with tables.quiet():
        whole = Fit(read(path, target), PLAIN, test_fraction=0.0, kernels="numpy")
    found = fitted(path, target, tmp_path)
    assert found.features.categorical == whole.features.categorical
    assert "seldom" in found.features.categorical[0].levels
    assert found.features.dropped == whole.features.dropped
    assert found.features.readings == whole.features.readings
    assert found.rows == whole.rows
    for ours, theirs in zip(found.features.numeric, whole.features.numeric, strict=True):
        assert (ours.name, ours.part, ours.bend, ours.missing) == (
            (theirs.name, theirs.part, theirs.bend, theirs.missing)
        )
        # The quartiles of the long tail are those of the sample.
        rel = 0.3 if ours.bend else 1e-9
        assert ours.center == pytest.approx(theirs.center, rel=rel, abs=1e-9)
        assert ours.scale == pytest.approx(theirs.scale, rel=rel)
    assert found.target.classes == whole.target.classes
    assert found.target.mean == pytest.approx(whole.target.mean, rel=1e-12)
    assert found.target.scale == pytest.approx(whole.target.scale, rel=1e-9)


@pytest.mark.usefixtures("small_samples")
def test_a_class_that_the_sample_lacks_is_a_class(tmp_path):
    cells = columns()
    cells["y"][1234] = cells["y"][99] = "perhaps"
    path = write(cells, tmp_path / "t.parquet")
    assert fitted(path, "y", tmp_path).target.classes == ("no", "perhaps", "yes")


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize(
    ("usual", "rare", "classes"),
    [("no", "yes", ("no", "yes")), ("0", "1", (0, 1)), ("false", "true", (False, True))],
)
def test_a_target_that_is_constant_in_the_sample_is_none(tmp_path, usual, rare, classes):
    numbers = take_sample(
        Stream(write(columns(), tmp_path / "s.parquet")).batches(), 0, "s"
    ).numbers
    others = [i for i in range(N) if i not in set(numbers.tolist())]
    cells = columns() | {"y": [usual] * N}
    for i in others[:9]:
        cells["y"][i] = rare
    path = write(cells, tmp_path / "t.parquet")
    assert fitted(path, "y", tmp_path).target.classes == classes


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("cell", ["inf", "1e200"])
def test_an_infinite_number_is_named_with_file_column_and_row(tmp_path, cell):
    cells = columns()
    write({name: values[:1000] for name, values in cells.items()}, tmp_path / "a.csv")
    cells["x"][1700] = cell
    write({name: values[1000:] for name, values in cells.items()}, tmp_path / "b.csv")
    expected = (
        rf"b\.csv: column 'x' is infinite or too large in row 700 \(from 0\): {float(cell):g}"
    )
    with pytest.raises(ValueError, match=expected.replace("+", r"\+")):
        fitted(str(tmp_path / "*.csv"), "y", tmp_path, rules=Rules(codes=()))


# ---------------------------------------------------------------------------- rows on the disk


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("target", ["y", "price", ["price", "tail"]])
def test_the_rows_on_the_disk_are_those_of_the_table_scattered(tmp_path, target):
    path = write(columns(), tmp_path / "t.parquet")
    settings = replace(PLAIN, validation_fraction=0.1, class_weight=None)
    fit = fitted(path, target, tmp_path, settings, test_fraction=0.2, weights="w")
    [file] = tmp_path.glob("*.rows")
    matrix = find_matrix(file)
    assert matrix is not None
    assert matrix.X.regions > 5
    n = fit.rows
    assert sum(n.values()) == N
    assert abs(n["test"] - 0.2 * N) < 4 * np.sqrt(0.16 * N)
    assert abs(n["validation"] - 0.08 * N) < 4 * np.sqrt(0.08 * N)
    table = read(path, target).data
    with tables.quiet():
        X = fit.features.transform(table)
        y = read(path, target).y
        Y = fit.target.encode(fit.target.parse(y))
    weights = np.array(list(map(float, columns()["w"])))
    expected = np.column_stack([X, Y.astype(np.float32), weights])
    scaled = matrix.weights[:].astype(np.float64)
    train = n["train"]
    assert scaled[:train].mean() == pytest.approx(1)
    scaled[:train] *= matrix.learnt.mean_weight
    found = np.column_stack([matrix.X[:], matrix.Y[:].reshape(N, -1), scaled])
    found, expected = (rows[np.lexsort(rows[:, ::-1].T)] for rows in (found, expected))
    np.testing.assert_allclose(found, expected, 1e-5)
    # Each region has rows of the whole table: `row` would count them, if it were not dropped.
    first = matrix.part("train")[0][: train // matrix.X.regions]
    day = fit.features.names.index("day days")
    assert abs(first[:, day].mean()) < 0.5


def test_scattering_gives_each_region_one_row_of_every_few():
    rows = np.concatenate([scattered(np.arange(a, a + 37), 370, 12, 5) for a in range(0, 370, 37)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(370))
    for group in rows[:360].reshape(30, 12):
        np.testing.assert_array_equal(np.sort(group // 30), np.arange(12))
    assert len({tuple(group // 30) for group in rows[:360].reshape(30, 12)}) > 25


@pytest.mark.usefixtures("small_samples")
def test_balanced_classes_weigh_as_in_memory(tmp_path):
    cells = columns()
    path = write(cells, tmp_path / "t.parquet")
    settings = replace(PLAIN, class_weight="balanced")
    fitted(path, "y", tmp_path, settings)
    matrix = find_matrix(next(tmp_path.glob("*.rows")))
    assert matrix is not None
    yes = cells["y"].count("yes")
    expected = np.where(matrix.Y[:] == 1, N / (2 * yes), N / (2 * (N - yes)))
    np.testing.assert_allclose(matrix.weights[:], expected, 1e-6)


@pytest.mark.usefixtures("small_samples")
def test_categories_of_rows_that_do_not_train_are_said(tmp_path):
    cells = columns()
    settings = replace(PLAIN, validation_fraction=0.2)
    held = np.flatnonzero(sample.shares_of(np.arange(N), 0) < 0.2)
    for i in held[:3]:
        cells["c"][i] = "seldom"
    path = write(cells, tmp_path / "t.parquet")
    *_, messages = told(lambda: stream(path, "y", cache=tmp_path), settings)
    expected = "categories that the fit did not see, encoded as zeros: c (3 rows)"
    assert expected in messages


def test_a_second_run_finds_the_rows_and_a_changed_file_does_not(tmp_path, monkeypatch):
    path = write(columns(), tmp_path / "t.csv")
    found = []
    versions = iter(["0.1", "0.1", "0.1", "0.2"])
    for settings in (PLAIN, replace(PLAIN, epochs=9), replace(PLAIN, seed=1), PLAIN):
        monkeypatch.setattr(examples, "__version__", next(versions))
        streamed = stream(path, "y", cache=tmp_path)
        with tables.quiet():
            Fit(streamed, settings, test_fraction=0.0, kernels="numpy")
        found.append(streamed.found)
    assert found == [False, True, False, False]
    os.utime(path, ns=(1, 1))
    again = stream(path, "y", cache=tmp_path)
    with tables.quiet():
        Fit(again, PLAIN, test_fraction=0.0, kernels="numpy")
    assert not again.found


KILLED = """
import os, signal, sys, warnings
from nnaccel.tabular.streamed import parts
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.streamed.examples import stream
warnings.simplefilter("ignore")
parts.BATCH = 300
examples = stream(sys.argv[1], "y", cache=sys.argv[2])
seen = []
def progress(what, share):
    seen.append(what)
    if seen.count("encoding") == 4:
        os.kill(os.getpid(), signal.SIGKILL)
examples.progress = progress
Fit(examples, Settings(members=1, hidden=(4,)), kernels="numpy")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_kill_in_the_second_pass_leaves_nothing_that_is_believed(tmp_path):
    path = write(columns(), tmp_path / "t.parquet")
    cache = tmp_path / "cache"
    cache.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, path, str(cache)], check=False)
    assert killed.returncode == -signal.SIGKILL
    [left] = cache.iterdir()
    assert left.suffix == ".part"
    settings = Settings(members=1, hidden=(4,))
    fit = fitted(path, "y", cache, settings, test_fraction=0.2)
    assert sum(fit.rows.values()) == N
    assert [file.suffix for file in cache.iterdir()] == [".rows"]


@pytest.mark.parametrize("damage", [b"", b"nnaccel rows 1\n", b"x" * 5000, "cut", "header"])
def test_a_damaged_file_of_rows_is_written_anew(tmp_path, damage):
    path = write(columns(), tmp_path / "t.parquet")
    expected = fitted(path, "y", tmp_path)
    [file] = tmp_path.glob("*.rows")
    whole = file.read_bytes()
    if damage == "cut":
        damage = whole[:-5]
    elif damage == "header":
        damage = whole.replace(b'"numeric"', b'"nvmeric"', 1)
    file.write_bytes(damage)
    assert fitted(path, "y", tmp_path).features == expected.features
    assert file.read_bytes() == whole


def test_room_is_looked_for_before_the_pass(tmp_path, monkeypatch):
    path = write(columns(), tmp_path / "t.parquet")
    passes = []

    def full(file, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_reserve", full)
    examples = stream(path, "y", cache=tmp_path)
    examples.progress = lambda what, share: passes.append(what)
    expected = r"cannot write .*\.rows \(no room for [\d,]+ bytes\); choose another place"
    with tables.quiet(), pytest.raises(OSError, match=expected):
        Fit(examples, PLAIN, kernels="numpy")
    assert "encoding" not in passes
    assert [*tmp_path.glob("*.rows")] == [*tmp_path.glob(".nnaccel*")] == []


@pytest.mark.usefixtures("small_samples")
def test_a_disk_that_fails_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    path, calls = write(columns(), tmp_path / "t.parquet"), 0
    put = second_pass.put

    def failing(*args):
        nonlocal calls
        calls += 1
        if calls == 100:
            raise OSError(5, "Input/output error")
        put(*args)

    monkeypatch.setattr(second_pass, "put", failing)
    expected = r"cannot write .*\.rows \(Input/output error\); choose another place"
    with tables.quiet(), pytest.raises(OSError, match=expected):
        Fit(stream(path, "y", cache=tmp_path), PLAIN, kernels="numpy")
    assert [*tmp_path.glob("*.rows")] == [*tmp_path.glob(".nnaccel*")] == []


@pytest.mark.usefixtures("small_samples")
def test_a_query_that_gives_other_rows_is_an_error(tmp_path, monkeypatch):
    path = write(columns(), tmp_path / "t.parquet")
    query, batches = f"from '{path}' where row::int < 2900", parts.batches_of_query
    seen = []

    def shrinking(query, rows):
        seen.append(query)
        return batches(query.replace("2900", "2000") if len(seen) == 4 else query, rows)

    monkeypatch.setattr(parts, "batches_of_query", shrinking)
    with tables.quiet(), pytest.raises(ValueError, match="gave other rows in the second pass than"):
        Fit(stream(query, "y", cache=tmp_path), PLAIN, kernels="numpy")
    assert len(seen) == 4  # the schema, the sample, the counts, the rows
    assert [*tmp_path.glob("*.rows")] == []


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("when", ["counting", "encoding"])
def test_a_file_that_changes_between_the_passes_is_an_error(tmp_path, when):
    path = write(columns(), tmp_path / "t.parquet")
    examples = stream(path, "y", cache=tmp_path)

    def touch(what, share):
        if what == when:
            os.utime(path, ns=(1, 1))

    examples.progress = touch
    expected = r"t\.parquet changed while it was read; begin anew when nobody writes to it"
    with tables.quiet(), pytest.raises(ValueError, match=expected):
        Fit(examples, PLAIN, kernels="numpy")
    assert [*tmp_path.glob("*.rows")] == []


# ---------------------------------------------------------------------------- runs


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("target", ["y", "price"])
def test_a_streamed_run_goes_on_to_the_same_model(tmp_path, target):
    path = write(columns(), tmp_path / "t.parquet")
    settings = Settings(hidden=(8,), epochs=4, seed=3)

    def begun(after=None):
        with tables.quiet():
            examples = stream(path, target, cache=tmp_path)
            return Fit(examples, settings, keeps=True, after=after, kernels="numpy")

    whole, part = begun(), begun()
    for _ in whole:
        pass
    for epoch in part:
        if epoch.number == 2:
            part.save(tmp_path / "checkpoint")
            break
    next(tmp_path.glob("*.rows")).unlink()  # the same rows are written again
    rest = begun(checkpoint.load(tmp_path / "checkpoint"))
    for _ in rest:
        pass
    whole.model().save(tmp_path / "a")
    rest.model().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert rest.evaluate(rest.model())["accuracy" if target == "y" else "R²"] > 0.6


@pytest.mark.usefixtures("small_samples")
def test_rows_that_are_sorted_by_class_cost_nothing(tmp_path):
    """Log loss on the same new rows, of a table sorted by class and of a shuffled one."""
    cells, new = columns(), columns(seed=1)
    losses = []
    order = np.argsort(cells["y"], kind="stable")
    for name, rows in (("sorted", order), ("shuffled", np.random.default_rng(2).permutation(N))):
        table = {k: [v[i] for i in rows] for k, v in cells.items() if k not in ("price", "row")}
        path = write(table, tmp_path / f"{name}.parquet")
        settings = replace(PLAIN, hidden=(16,), epochs=6)
        fit = fitted(path, "y", tmp_path, settings)
        for _ in fit:
            pass
        path = write(new, tmp_path / "new.parquet")
        with tables.quiet():
            examples = read(path, "y")
            losses.append(fit.model().evaluate(examples.data, examples.y)["log loss"])
    assert losses[0] < losses[1] + 0.02
    assert losses[0] < 0.4  # always the share of either class: 0.69


def test_several_networks_are_refused(tmp_path):
    path = write(columns(), tmp_path / "t.parquet")
    for settings in (Settings(members=3), Settings(numbers="both")):
        with pytest.raises(ValueError, match="a streamed table trains one network; leave members"):
            fitted(path, "y", tmp_path, settings)


# ---------------------------------------------------------------------------- sources


def test_files_folders_patterns_and_queries_are_the_same_rows(tmp_path):
    cells = columns()
    half = {name: values[:1500] for name, values in cells.items()}
    rest = {name: values[1500:] for name, values in cells.items()}
    folder = tmp_path / "parts"
    (folder / "deep").mkdir(parents=True)
    write(half, folder / "a.csv")
    write({name: rest[name] for name in reversed(rest)}, folder / "deep" / "b.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / ".hidden.csv").write_text("no,table\n")
    whole = write(cells, tmp_path / "whole.parquet")
    query = f"from '{whole}'"
    expected = read(whole, need_target=False).data
    for source in (whole, str(folder), f"{folder}/**/*.*", query):
        found = pa.concat_tables([batch.table for batch in Stream(source).batches()])
        found = found.select(expected.column_names)
        # An empty cell of text is null, one of Parquet an empty string.
        assert found.to_pylist()[1::11] == expected.to_pylist()[1::11]
        assert found.num_rows == N
    batches = [*Stream(str(folder)).batches()]
    assert [(b.where.rpartition("/")[2], b.first, b.number) for b in batches][-1] == (
        ("b.parquet", 0, 1500)
    )
    assert batches[-1].done == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"the folder .* has no tables; expected \.parquet, \.feather, \.arrow or text"),
        (
            ["x,y", "x,z"],
            r"1\.csv lacks the target 'y', which .*0\.csv has; all files must have it",
        ),
        (["x,z,y", "x,y"], r"1\.csv lacks column z, which .*0\.csv has; all files must have it"),
        (["x,y", "x,z,y"], r"1\.csv has column z, which .*0\.csv lacks; all files must have the"),
        (["z,x", "z,x"], r"no column named 'y'; columns: z, x"),
    ],
)
def test_files_that_are_not_of_one_table_are_refused(tmp_path, names, message):
    for i, header in enumerate(names):
        row = ",".join("1" for _ in header.split(","))
        (tmp_path / f"{i}.csv").write_text(f"{header}\n{row}\n{row}\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stream(str(tmp_path), "y")


def test_types_that_differ_between_files_are_made_one_or_refused(tmp_path):
    for i, values in enumerate(([1, 2], [1.5, None])):
        parquet.write_table(pa.table({"x": values, "y": [0, 1]}), tmp_path / f"{i}.parquet")
    found = [batch.table["x"] for batch in Stream(str(tmp_path)).batches()]
    assert [column.to_pylist() for column in found] == [[1.0, 2.0], [1.5, None]]
    feather.write_feather(pa.table({"x": ["a"], "y": [1]}), tmp_path / "2.feather")
    with pytest.raises(
        ValueError, match=r"2\.feather has columns of other types than .*0\.parquet"
    ):
        Stream(str(tmp_path)).schema  # noqa: B018


@pytest.mark.parametrize(
    ("integers", "message"),
    [
        (
            pa.array([2**53 + 1, 2]),
            "is int64 there and with the other files double, which does",
        ),
        (pa.array([2**63, 2], pa.uint64()), "is uint64 there and with the other files double"),
    ],
)
def test_numbers_that_the_type_of_all_files_cannot_hold_are_named(tmp_path, integers, message):
    parquet.write_table(pa.table({"x": integers, "y": [0, 1]}), tmp_path / "0.parquet")
    parquet.write_table(pa.table({"x": [0.5, 1.5], "y": [0, 1]}), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=rf"0\.parquet: column 'x' {message}"):
        [*Stream(str(tmp_path)).batches()]


def test_links_to_folders_are_followed_and_what_is_there_twice_is_read_once(tmp_path):
    for name in ("table", "other"):
        (tmp_path / name).mkdir()
        parquet.write_table(pa.table({"x": [name], "y": [1]}), tmp_path / name / f"{name}.parquet")
    try:
        os.symlink(tmp_path / "other", tmp_path / "table" / "link")
        os.symlink(tmp_path / "table", tmp_path / "table" / "loop")
        os.symlink(tmp_path / "table" / "table.parquet", tmp_path / "table" / "latest.parquet")
    except OSError:
        pytest.skip("this system lets nobody make links")
    found = [batch.table["x"].to_pylist() for batch in Stream(str(tmp_path / "table")).batches()]
    assert sorted(found) == [["other"], ["table"]]


def test_folders_that_hold_a_column_in_their_names_are_said(tmp_path):
    for year in (2023, 2024):
        folder = tmp_path / f"year={year}"
        folder.mkdir()
        parquet.write_table(pa.table({"x": [1.5], "y": [1]}), folder / "a.parquet")
    for source in (str(tmp_path), f"{tmp_path}/**/*.parquet"):
        with pytest.warns(tables.TableWarning, match="names of its folders say year, and are not"):
            Stream(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Stream(str(tmp_path / "year=2023"))  # who names it knows it
    query = f"from read_parquet('{tmp_path}/**/*.parquet', hive_partitioning=true)"
    found = pa.concat_tables(batch.table for batch in Stream(query).batches())
    assert sorted(found["year"].to_pylist()) == [2023, 2024]


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("target", ["y", "price"])
def test_text_of_other_types_is_read_as_text(tmp_path, kind, target):
    """Also the target, and also in files whose dictionaries differ."""
    cells = {name: pa.array(values) for name, values in columns().items()}
    names = ["c", "y"] if pa.types.is_dictionary(kind) else [*cells]
    for i in range(3):
        part = {name: values[i * 1000 : (i + 1) * 1000] for name, values in cells.items()}
        part |= {name: part[name].cast(kind) for name in names}
        # pyarrow 18 crashes when it compresses views of short texts.
        feather.write_feather(pa.table(part), tmp_path / f"{i}.feather", "uncompressed")
    whole = write(columns(), tmp_path / "t.parquet")
    expected = fitted(whole, target, tmp_path)
    found = fitted(f"{tmp_path}/*.feather", target, tmp_path)
    # An empty text is missing, but one in a dictionary is a category.
    found_levels = [[level for level in c.levels if level] for c in found.features.categorical]
    assert found_levels == [[*c.levels] for c in expected.features.categorical]
    for ours, theirs in zip(found.features.numeric, expected.features.numeric, strict=True):
        assert (ours.label, ours.bend, ours.missing) == (theirs.label, theirs.bend, theirs.missing)
        assert (ours.center, ours.scale) == pytest.approx((theirs.center, theirs.scale))
    for one in ("task", "name", "classes", "form"):
        assert getattr(found.target, one) == getattr(expected.target, one)
    assert found.target.mean == pytest.approx(expected.target.mean)
    assert found.rows == expected.rows


def test_a_row_group_is_never_whole_in_memory(tmp_path):
    rows = {name: np.random.default_rng(0).standard_normal(1_500_000) for name in "abcd"}
    parquet.write_table(pa.table(rows), tmp_path / "t.parquet", row_group_size=1_500_000)
    before = pa.total_allocated_bytes()
    stream = Stream(str(tmp_path / "t.parquet"))
    held = [pa.total_allocated_bytes() - before for batch in stream.batches()]
    assert len(held) > 5
    assert max(held) < 2e7  # of 48 MB: two batches, and pages of each column


def test_files_without_rows_add_none(tmp_path):
    header = ",".join(columns())
    for name in ("0.csv", "9.csv"):
        (tmp_path / name).write_text(f"{header}\n")
    empty = pa.table({name: pa.array([], pa.string()) for name in columns()})
    parquet.write_table(empty, tmp_path / "1.parquet")
    write(columns(), tmp_path / "5.parquet")
    assert sum(batch.table.num_rows for batch in Stream(str(tmp_path)).batches()) == N
    with pytest.raises(ValueError, match=r".*\.csv has no rows"):
        Stream(str(tmp_path / "0.csv"), Layout(header=True)).schema  # noqa: B018


@pytest.mark.usefixtures("small_samples")
def test_missing_cells_of_a_column_with_too_many_categories_have_a_column(tmp_path, monkeypatch):
    """Though no row of the sample misses one."""
    monkeypatch.setattr(counts, "MOST_LEVELS", 150)
    path = write(columns(), tmp_path / "s.parquet")
    sampled = {*take_sample(Stream(path).batches(), 0, "s").numbers.tolist()}
    cells = columns() | {"many": [f"t{i % 200}" for i in range(N)]}
    for i in [i for i in range(N) if i not in sampled][:9]:
        cells["many"][i] = ""
    found = fitted(write(cells, tmp_path / "t.parquet"), "y", tmp_path)
    [many] = [c for c in found.features.categorical if c.name == "many"]
    assert many.other
    assert many.missing


def test_quartiles_of_a_sample_without_a_value_are_not_asked_for():
    moments = Moments(np.zeros(1))
    values = np.append(np.zeros(500), 1e6)
    moments.add(0, values)
    scale = moments.scale_of(0, np.full(5, np.nan))
    assert (scale.center, scale.scale, scale.bend) == pytest.approx(
        (values.mean(), values.std(), False)
    )


def test_the_beginning_of_a_text_ends_with_a_whole_row(tmp_path):
    """Though cells in quotes have several lines: 1 MB of them shows the structure."""
    note = '"a note with\nseveral lines, and ""quotes"" {}\nmore",{},{}\n'
    content = "note,x,y\n" + "".join(note.format("z" * 60, i / 7, i % 2) for i in range(14_000))
    path = tmp_path / "t.csv"
    path.write_text(content)
    assert len(content) > text.SAMPLE
    expected = read(str(path), need_target=False).data
    found = pa.concat_tables(batch.table for batch in Stream(str(path)).batches())
    assert found.equals(expected)
    inches = b'x,y\n5",1\n' + b"6,0\n" * 20_000  # a quote that begins nothing
    assert text._whole_lines(inches + b"7", True) == inches


def test_text_is_read_in_blocks_as_it_is_whole(tmp_path, monkeypatch):
    """Comments, spaces, encodings, compression, and a bad row far from the beginning."""
    monkeypatch.setattr(text, "BLOCK", 2000)
    rows = [f"{i},name {i},{i / 7:.3f}" for i in range(3000)]
    commented = ["# about", "i,name,v", *rows[:1500], "# half", *rows[1500:]]
    texts = {
        "plain.csv": "\n".join(["i,name,v", *rows]).encode(),
        "comment.csv": "\n".join(commented).encode(),
        "utf16.csv": "\n".join(["i,name,v", *rows]).encode("utf-16"),
        "latin.csv": "\n".join(["i,näme,v", *rows]).encode("latin-1"),
        "spaces.txt": "\n".join(f"{i:5}   {i / 7:8.3f}" for i in range(2000)).encode(),
    }
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
        with tables.quiet():
            expected = read(str(tmp_path / name), need_target=False).data
            batches = [batch.table for batch in Stream(str(tmp_path / name)).batches()]
        assert len(batches) > 3, name
        assert pa.concat_tables(batches).to_pydict() == expected.to_pydict(), name
    bad = "\n".join(["i,name,v", *rows, "1,2,3,4", *rows])
    (tmp_path / "bad.csv").write_text(bad)
    with pytest.raises(ValueError, match=r"bad\.csv: read with .* another number of cells"):
        for _ in Stream(str(tmp_path / "bad.csv")).batches():
            pass


def test_too_many_labels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "MOST_VALUES", 100)
    cells = columns()
    cells["y"] = [f"label {i}" for i in range(N)]
    path = write(cells, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="target 'y' has more than 100 different labels"):
        fitted(path, "y", tmp_path)


def test_text_that_is_no_utf_8_further_on_is_said(tmp_path):
    rows = [f"{i},name" for i in range(200_000)]
    path = tmp_path / "t.csv"
    path.write_bytes("\n".join(["i,name", *rows, "1,näme"]).encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"t\.csv: it is no UTF-8 text; name its encoding with --en"
    ):
        for _ in Stream(str(path)).batches():
            pass


@pytest.mark.usefixtures("small_samples")
def test_batches_without_a_target_are_left_out(tmp_path):
    cells = columns()
    cells["y"][300:1500] = [""] * 1200
    path = write(cells, tmp_path / "t.parquet")
    _, _, rows, *_, messages = told(lambda: stream(path, "y", cache=tmp_path))
    assert sum(rows.values()) == N - 1200
    assert "1,200 rows without a 'y' are left out" in messages


@pytest.mark.parametrize("dtype", ["O", "int64", "S8"])
def test_a_forged_file_of_rows_is_not_believed(tmp_path, dtype):
    path = write(columns(), tmp_path / "t.parquet")
    fitted(path, "y", tmp_path)
    [file] = tmp_path.glob("*.rows")
    content = file.read_bytes()
    forged = content.replace(b'"float32"', f'"{dtype}"'.encode().ljust(9), 1)
    assert forged != content
    file.write_bytes(forged)
    assert find_matrix(file) is None
