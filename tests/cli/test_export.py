"""`nnaccel export`: what it writes, and what it refuses."""

import runpy

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

from nnaccel.tabular.model import Model
from nnaccel.tabular.sources import read


def test_each_format_by_its_suffix_or_its_name(run, here, trained):
    pytest.importorskip("onnx", reason="ONNX needs the extra [onnx]")
    assert run("export", trained / "label", "m.onnx") == ""
    assert run.err == "m.onnx written: the table's encoding and the network as ONNX\n"
    run("export", trained / "label", "m.PY")
    assert run.err == "m.PY written: predict() with NumPy alone\n"
    run("export", trained / "label", "code.txt", "--format", "numpy")
    assert (here / "code.txt").read_text() == (here / "m.PY").read_text().replace(
        "from m ", "from code "
    )


def test_what_is_written_predicts(run, here, trained):
    run("export", trained / "price", "m.py")
    model, data = Model.load(trained / "price"), read(str(trained / "d.csv"), "price").data
    inputs = {n: data[n].to_pylist() for n in data.column_names}
    inputs = {n: [None if c == "" else c for c in cells] for n, cells in inputs.items()}
    inputs["flag"] = [float(cell == "true") for cell in inputs["flag"]]
    found = runpy.run_path("m.py")["predict"](inputs)
    np.testing.assert_allclose(found, model.outputs(data), rtol=1e-6)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("m.onx",), "the file must end in .onnx, .py, .pt, or the format be one of onnx, numpy"),
        (("m.py", "--format", "nunpy"), "argument --format: invalid choice: 'nunpy'"),
        (("none/m.py",), "cannot write none/m.py (No such file or directory); choose another"),
        (("/",), "the file must end in"),
        (("/", "--format", "numpy"), "/ is a folder; give the name of a file"),
    ],
)
def test_wrong_usage(error, trained, argv, message):
    assert error("export", trained / "label", *argv).startswith(message)


def test_a_file_that_is_there_is_kept(run, error, here, trained):
    (here / "own.py").write_text("import this")
    assert "own.py exists, a file of 20" in error("export", trained / "label", "own.py")
    assert (here / "own.py").read_text() == "import this"
    run("export", trained / "label", "own.py", "--force")
    assert "def predict_proba(table)" in (here / "own.py").read_text()
    run("train", "iris", "--epochs", "1", "--output", "m.py")
    for force in ((), ("--force",)):
        line = error("export", "m.py", "m.py", *force)
        assert line == "m.py is the model; choose another name"


def test_what_is_no_model(error, here):
    (here / "model").write_text("no")
    assert error("export", "model", "m.py").startswith("model: not a model that can be used: ")
    assert error("export", "modle", "m.py") == "modle: no such file; did you mean 'model'?"
    assert error("export", "m").startswith("the following arguments are required: FILE")


@pytest.mark.parametrize(
    ("package", "suffix", "command"),
    [("onnx", "onnx", "'nnaccel[onnx]'"), ("torch", "pt", "torch")],
)
def test_a_missing_package_is_one_line(error, trained, monkeypatch, package, suffix, command):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert error("export", trained / "label", f"m.{suffix}") == (
        f"{package} is needed here and is not installed; install it with: python -m pip install "
        + command
    )
