"""The structure of delimited text, and its cells as they are written."""

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
pytest.importorskip("duckdb", reason="tables need DuckDB (the extra [cli])")
from nnaccel.tabular.delimited import Layout, read_text
from nnaccel.tabular.tables import TableWarning

NAMES = ["x", "gruppe", "ziel"]
ROWS = [[f"{i / 10 - 1:.1f}", "üß"[i % 2], f"{i}.5"] for i in range(30)]


def written(separator=",", header=True, end="\n"):
    lines = [NAMES, *ROWS] if header else ROWS
    return "".join(separator.join(line) + end for line in lines)


EXPECTED = {name: [row[i] for row in ROWS] for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    "text",
    [
        *(written(separator) for separator in ",;|\t "),
        written(end="\r\n"),
        written().rstrip("\n"),
        "\n\n" + written(),
        "sep=;\n" + written(";"),
        "# exported 2024-01-02\n# units: cm\n" + written(),
        "Report of 2024\nMade by a machine\n\n" + written(),
        written().replace("\n", ",,\n"),
        written().replace("2.5\n", "2.5\n# a remark\n"),
        written("   "),
        written().replace("x,gruppe", '"x","gruppe"'),
        "\ufeff" + written(),
    ],
)
def test_structure(text):
    assert read_text(text.encode())[0].to_pydict() == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_that_show(encoding):
    assert read_text(written().encode(encoding))[0].to_pydict() == EXPECTED


def test_latin_1_is_read_with_a_warning_and_others_when_named():
    with pytest.warns(TableWarning, match="line 2 is no UTF-8 text; read as Latin-1.*--encoding"):
        assert read_text(written().encode("latin-1"))[0].to_pydict() == EXPECTED
    greek = written().replace("ü", "λ").replace("ß", "λ").encode("iso-8859-7")
    table, _ = read_text(greek, Layout(encoding="iso-8859-7"))
    assert set(table["gruppe"].to_pylist()) == {"λ"}
    with pytest.raises(ValueError, match="not text in utf-8 .*name its encoding"):
        read_text(greek, Layout(encoding="utf-8"))
    with pytest.raises(ValueError, match="unknown encoding 'klingon'"):
        read_text(greek, Layout(encoding="klingon"))


def test_a_bad_line_that_is_no_utf_8_is_shown():
    text = written().encode() + "ÿ\n".encode("latin-1")
    with (
        pytest.warns(TableWarning, match="line 32 is no UTF-8 text"),
        pytest.raises(ValueError, match="the first has 1: 'ÿ'"),
    ):
        read_text(text)


def test_a_missing_header_is_recognised_or_said():
    text = written(header=False).encode()
    table, structure = read_text(text)
    assert table.column_names == ["column0", "column1", "column2"]
    assert len(table) == 30
    assert str(structure) == "read with separator ',' and no header"
    table, structure = read_text(text, Layout(header=True))
    assert (len(table), str(structure)) == (29, "read with separator ',' and line 1 as header")
    years = b"2019,2020\n1,2\n3,4\n"  # numbers like all others, unless it is said
    assert read_text(years, Layout(header=True))[0].column_names == ["2019", "2020"]
    assert len(read_text(b"a,b\nc,d\n", Layout(header=False))[0]) == 2


def test_a_separator_that_is_said():
    text = b"a;b,c\n1;2,5\n3;4,5\n"
    assert read_text(text, Layout(delimiter=";"))[0].to_pydict() == {
        "a": ["1", "3"],
        "b,c": ["2,5", "4,5"],
    }
    assert read_text(text, Layout(delimiter=","))[0].column_names == ["a;b", "c"]


def test_cells_are_what_the_file_says():
    text = 'id,v,"two\nlines"\n007, 1.10 ,"a ""b"", c"\n1e5,,"x\ny"\nNA,"",z\n'
    assert read_text(text.encode())[0].to_pydict() == {
        "id": ["007", "1e5", "NA"],
        "v": [" 1.10 ", None, None],
        "two\nlines": ['a "b", c', "x\ny", "z"],
    }


def test_columns_without_a_name():
    table, _ = read_text(b"a,,b,\n1,x,2,\n3,,4,\n")
    assert table.to_pydict() == {"a": ["1", "3"], "column1": ["x", None], "b": ["2", "4"]}


def test_a_header_alone():
    table, _ = read_text(b"a,b\n")
    assert (table.column_names, len(table)) == (["a", "b"], 0)


def test_a_line_with_another_number_of_cells_is_named():
    text = written().replace("üß"[1] + ",3.5", "x")
    with pytest.raises(ValueError, match=r"1 of its rows .* 3 columns; the first has 2: '-0.7,x'"):
        read_text(text.encode())


def test_a_long_file_is_read_to_its_end():
    n = 100_000
    text = "i,s\n" + "".join(f"{i},w{i % 7}\n" for i in range(n)) + "x,y\n"
    table, _ = read_text(text.encode())
    assert np.array_equal(table["i"].to_numpy()[:n].astype(int), np.arange(n))
    assert table["i"][n].as_py() == "x"
