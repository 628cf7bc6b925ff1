"""Reading tables, and what is said when they cannot be read. Oracle: pandas, pyarrow's writers."""

import gzip
import sys

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
from pyarrow import csv, feather, ipc, parquet

from nnaccel.tabular.table_files import read_table
from nnaccel.tabular.tables import (
    as_table,
    import_extra,
    listing,
    pop_target,
)

TABLE = pa.table(
    {"age": [31, 46, None], "job": ["nurse", None, "clerk"], "ok": [True, False, None]}
)

AS_TEXT = {
    "age": ["31", "46", None],
    "job": ["nurse", None, "clerk"],
    "ok": ["true", "false", None],
}


def save(tmp_path, content, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", csv.write_csv),
        ("T.CSV", csv.write_csv),
        ("t.tsv", lambda t, p: csv.write_csv(t, p, csv.WriteOptions(delimiter="\t"))),
        ("t.parquet", parquet.write_table),
        ("t.feather", feather.write_feather),
        ("t.arrow", feather.write_feather),
        ("t.arrow", write_stream),
    ],
)
def test_every_format_gives_the_table_that_was_written(tmp_path, name, write):
    write(TABLE, str(tmp_path / name))
    found = read_table(str(tmp_path / name))[0]
    if name.lower().endswith((".csv", ".tsv")):  # text, which says nothing of types
        assert found.to_pydict() == AS_TEXT
    else:
        assert found.schema.equals(TABLE.schema)
        assert found.to_pydict() == TABLE.to_pydict()


@pytest.mark.parametrize("suffix", [".csv.gz", ".tsv.gz"])
def test_compressed_text(tmp_path, suffix):
    content = "a,b\n1,x\n2,y\n".replace(",", "\t" if "tsv" in suffix else ",")
    path = save(tmp_path, gzip.compress(content.encode()), "t" + suffix)
    assert read_table(path)[0].to_pydict() == {"a": ["1", "2"], "b": ["x", "y"]}


def test_csv_agrees_with_pandas(tmp_path):
    """Both read each cell as text: its spelling is kept."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "x": np.where(rng.random(50) < 0.1, np.nan, rng.standard_normal(50)),
            "n": rng.integers(0, 9, 50),
            "s": rng.choice(["a", "b, c", 'd"e', "007", "NA"], 50),
        }
    )
    frame.to_csv(tmp_path / "f.csv", index=False)
    expected = pandas.read_csv(tmp_path / "f.csv", dtype=str, keep_default_na=False)
    read = read_table(tmp_path / "f.csv")[0].to_pydict()
    for name in frame:
        assert [cell or "" for cell in read[name]] == expected[name].tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", b"", r"e\.csv is empty"),
        ("e.csv", b"\n \n", r"e\.csv is empty"),
        ("e.csv", b"\xef\xbb\xbf", r"e\.csv is empty"),
        ("e.parquet", b"", r"e\.parquet is empty"),
        ("h.csv", b"a,b", r"h\.csv has column names but no rows: a, b"),
        ("h.csv", b"a,b\n", r"h\.csv has column names but no rows: a, b"),
        ("d.csv", b"a,b,a\n1,2,3\n", r"d\.csv has more than one column named a; rename"),
        (
            "r.csv",
            b"a,b\n1,2\n3\n",
            r"r\.csv: .* 1 of its rows .* than the 2 columns; .* has 1: '3'",
        ),
        ("z.csv.gz", b"not gzip", r"z\.csv\.gz cannot be read as csv\.gz: .*check that the file"),
        # Without the time, which would be in the name of the test: all workers collect the same.
        ("z.csv.gz", gzip.compress(b"a\n1\n", mtime=0)[:-9], r"z\.csv\.gz cannot be read as csv"),
        ("p.parquet", b"a,b\n1,2\n", r"p\.parquet cannot be read as parquet: .*check that"),
        ("f.feather", b"a,b\n1,2\n", r"f\.feather cannot be read as feather"),
        ("f.arrow", b"ARROW1 and no more", r"f\.arrow cannot be read as arrow"),
        ("x.xlsx", b"PK", r"x\.xlsx: unknown kind of file '\.xlsx'; known are \.csv, .*convert"),
        ("noext", b"a\n1\n", r"noext: unknown kind of file ''; known are \.csv"),
        ("p.parquet.gz", b"PK", r"unknown kind of file '\.parquet\.gz'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_table(save(tmp_path, content, name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["t.feather", "t.arrow"])
def test_a_damaged_arrow_file_does_not_reach_the_arithmetic(tmp_path, name):
    """Offsets beyond the text kill the process when the column is used, and not before."""
    table = pa.table({"s": ["a", "b", "c", "d"] * 3})
    write = write_stream if name == "t.arrow" else feather.write_feather
    options = {} if name == "t.arrow" else {"compression": "uncompressed"}
    write(table, str(tmp_path / name), **options)
    content = (tmp_path / name).read_bytes()
    offsets = np.arange(13, dtype="int32")
    assert content.count(offsets.tobytes()) == 1
    offsets[-1] = 2**30
    damaged = content.replace(np.arange(13, dtype="int32").tobytes(), offsets.tobytes())
    (tmp_path / name).write_bytes(damaged)
    kind = name.partition(".")[2]
    with pytest.raises(
        ValueError, match=rf"{name} cannot be read as {kind}: .*check that the file"
    ):
        read_table(tmp_path / name)


BOMB = pa.table({"a": np.zeros(1_000_000), "b": np.zeros(1_000_000)})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv.gz", lambda path: path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10**6))),
        ("t.parquet", lambda path: parquet.write_table(BOMB, path, compression="zstd")),
        ("t.feather", lambda path: feather.write_feather(BOMB, str(path), compression="zstd")),
    ],
)
def test_what_a_small_file_becomes_is_limited(tmp_path, monkeypatch, name, write):
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 100_000
    assert read_table(tmp_path / name)[0].num_rows == 1_000_000
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "2000000")
    with pytest.raises(
        ValueError, match=rf"{name} becomes more than 2,000,000 bytes .*_READ_LIMIT"
    ):
        read_table(tmp_path / name)
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "50000000")
    assert read_table(tmp_path / name)[0].num_rows == 1_000_000


def test_a_dictionary_that_batches_share_counts_once(tmp_path, monkeypatch):
    levels = pa.array([f"level {i:09}" for i in range(100_000)])
    column = pa.DictionaryArray.from_arrays(np.arange(10_000, dtype="int32") * 7, levels)
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink:
        table = pa.table({"c": column})
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "1")
    assert read_table(tmp_path / "t.arrow")[0].num_rows == 10_000  # of 100 batches


def test_memory_that_a_file_takes_is_no_damage(tmp_path, monkeypatch):
    def out_of_memory(*args, **options):
        raise pa.ArrowMemoryError("malloc of size 99 failed")

    monkeypatch.setattr(parquet, "ParquetFile", out_of_memory)
    with pytest.raises(
        MemoryError, match="^not enough memory to read .*t.parquet as parquet .mall"
    ):
        read_table(save(tmp_path, b"PAR1", "t.parquet"))


@pytest.mark.parametrize(
    "notes", [b"[]", b"3", b'{"index_columns": {"a": 1}}', b'{"index_columns": [3, "b", null]}']
)
def test_what_pandas_noted_may_be_anything(tmp_path, notes):
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({b"pandas": notes})
    feather.write_feather(table, str(tmp_path / "t.feather"))
    kept = [] if b'{"a"' in notes else ["a"]
    if kept:
        assert read_table(tmp_path / "t.feather")[0].column_names == kept
    else:
        with pytest.raises(ValueError, match="has no columns"):
            read_table(tmp_path / "t.feather")


@pytest.mark.parametrize("notes", [b"{", b"\xff", b"[" * 100_000, b'{"index_columns": 3}'])
def test_notes_of_pandas_that_cannot_be_read(tmp_path, notes):
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({b"pandas": notes})
    feather.write_feather(table, str(tmp_path / "t.feather"))
    with pytest.raises(ValueError, match="t.feather cannot be read as feather: .*; check that"):
        read_table(tmp_path / "t.feather")


def test_no_such_file(tmp_path):
    save(tmp_path, "a\n1\n", "train.csv")
    with pytest.raises(
        FileNotFoundError, match=r"trian\.csv: no such file; did you mean 'train.cs"
    ):
        read_table(tmp_path / "trian.csv")
    with pytest.raises(FileNotFoundError, match=r"q\.csv: no such file; there is no folder .*nope"):
        read_table(tmp_path / "nope" / "q.csv")
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        read_table(tmp_path)


def test_dataframes_of_any_library():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    data = {"a": [1, 2], "b": ["x", None]}
    for frame in (pandas.DataFrame(data), polars.DataFrame(data), pa.table(data)):
        assert as_table(frame).to_pydict() == data


def test_index_of_pandas_is_no_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3]}, index=[7, 5, 6])
    assert as_table(frame).column_names == ["a"]
    frame.to_parquet(tmp_path / "f.parquet")
    assert read_table(tmp_path / "f.parquet")[0].column_names == ["a"]


def test_what_is_no_table():
    with pytest.raises(TypeError, match="expected a table .* got list; for a matrix pass a NumPy"):
        as_table([[1, 2]])
    with pytest.raises(ValueError, match="Table has no columns"):
        as_table(pa.table({}))
    with pytest.raises(ValueError, match="Table has column names but no rows: a"):
        as_table(pa.table({"a": pa.array([], pa.int64())}))
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(ValueError, match="Table has more than one column named a"):
        as_table(twice)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="DataFrame has a column of mixed types: .*'x'"):
        as_table(pandas.DataFrame({"a": [1, "x"]}))


def test_pop_target():
    rest, column, name = pop_target(TABLE, ["job"])
    assert (rest.column_names, column.to_pylist(), name) == (
        ["age", "ok"],
        TABLE["job"].to_pylist(),
        "job",
    )


def test_pop_target_says_what_there_is():
    with pytest.raises(
        ValueError, match=r"no column named 'Jbo'; columns: age, job, ok; did.*'job'"
    ):
        pop_target(TABLE, ["Jbo"])
    with pytest.raises(
        ValueError, match="no target column named; pass --target NAME; columns: age"
    ):
        pop_target(TABLE, [])
    with pytest.raises(ValueError, match="pass --target NAME, for example --target Class; columns"):
        pop_target(TABLE.append_column("Class", [[1, 2, 3]]), [])
    with pytest.raises(ValueError, match="'age' is the only column"):
        pop_target(TABLE.select(["age"]), ["age"])
    wide = pa.table({f"c{i}": [0] for i in range(40)})
    with pytest.raises(ValueError, match=r"c11, … \(40 in all\)"):
        pop_target(wide, [])


def test_a_name_is_on_one_line():
    assert listing(["a\nb", "é ß", "\x1b[1m", "\u202e"]) == r"a\nb, é ß, \x1b[1m, \u202e"


def test_a_frame_with_half_a_character():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="DataFrame has text that is no Unicode: .*correct it"):
        as_table(pandas.DataFrame({"a": pandas.Series(["\ud800", "b"], dtype=object)}))


def test_listing_is_short():
    assert listing("abc") == "a, b, c"
    assert listing(range(1000), limit=2) == "0, 1, … (1,000 in all)"


@pytest.mark.parametrize(
    ("module", "package"), [("pyarrow.csv", "pyarrow"), ("sklearn.datasets", "scikit-learn")]
)
def test_absent_package_names_the_command(monkeypatch, module, package):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("nnaccel.tabular.tables.import_module", absent)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} .*pip install 'nnaccel\[cli\]'"):
        import_extra(module)


def test_importing_the_module_does_not_import_pyarrow():
    """The command line must answer --help before pyarrow is loaded."""
    import subprocess
    import sys

    rooms = "tables", "features", "targets", "datasets"
    code = f"import sys, {', '.join(f'nnaccel.tabular.{room}' for room in rooms)}; "
    code += "print([m for m in ('pyarrow', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
