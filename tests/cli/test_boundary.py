"""`nnaccel train --plot`: the picture of a boundary, and what has none."""

import re
import sys

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

from nnaccel.tabular.model import Model
from nnaccel.tabular.sources import read

QUICK = ("--members", "1", "--hidden", "4", "--epochs", "3")
TWO = ("--drop", "petal length (cm)", "petal width (cm)")


def test_the_picture_says_how_many_rows_are_right(run, here):
    pytest.importorskip("matplotlib", reason="the picture needs the extra [plot]")
    run("train", "iris", *TWO, *QUICK, "--plot", "iris.svg", "--test-fraction", "0")
    assert run.err.splitlines() == ["iris.svg written"]
    iris, model = read("iris"), Model.load(here / "iris.safetensors")
    right = model.evaluate(iris.data, iris.y)["accuracy"]
    picture = (here / "iris.svg").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- (.*?) -->", picture)
    assert f"{right:.1%} of 150 rows are right" in shown
    assert {"sepal length (cm)", "sepal width (cm)", "setosa", "versicolor", "virginica"} <= {
        *shown
    }


def test_regions_are_what_the_model_predicts_in_the_units_of_the_table(run, here):
    pytest.importorskip("matplotlib", reason="the picture needs the extra [plot]")
    from nnaccel.cli.boundary import class_numbers_on, values_of

    rng = np.random.default_rng(0)
    price, area = rng.lognormal(3, 1, 200), rng.normal(1000, 5, 200)  # one with a long tail
    price[7] = 1e5
    label = np.where(price > 20, "_dear", "$cheap$")
    cells = zip(range(200), price, area, label, strict=True)
    lines = [f"{i},${p:.2f},{a:.3f},{y}" for i, p, a, y in cells]
    (here / "t.csv").write_text("\n".join(["id,price,area,class", *lines]))
    run("train", "t.csv", "--target", "class", *QUICK, "--plot", "t.svg")
    model, table = Model.load(here / "t.safetensors"), read("t.csv", "class").data
    points = values_of(model.features, table)
    np.testing.assert_allclose(points, np.stack([price, area], axis=1), atol=0.006)
    assert any(number.bend for number in model.features.numeric)
    found = np.array(model.target.classes)[class_numbers_on(model, points, None)]
    np.testing.assert_array_equal(found, model.predict(table))
    picture = (here / "t.svg").read_text(encoding="utf-8")
    assert {"$cheap$", " _dear"} <= {*re.findall(r"<!-- (.*?) -->", picture)}


def test_what_has_no_picture_is_refused_before_training(error, run, here):
    pytest.importorskip("matplotlib", reason="the picture needs the extra [plot]")
    assert error("train", "iris", "--plot", "i.png", *QUICK) == (
        "--plot draws two columns of numbers without missing values, and the network is given 4: "
        "sepal length (cm), sepal width (cm), petal length (cm), petal width (cm); --drop the "
        "others, or leave --plot out"
    )
    assert error("train", "diabetes", "--plot", "d.png", *QUICK) == (
        "--plot draws the boundary between the classes of one target; leave it out"
    )
    assert error("train", "moons", "--plot", "m.jpg", *QUICK) == (
        "--plot must end in .png, .svg, .pdf, got m.jpg"
    )
    rows = [f"{i % 7}.5,{i * 3 % 11}.25,{i % 12}" for i in range(120)]
    (here / "t.csv").write_text("\n".join(["a,b,y", *rows]))
    assert error("train", "t.csv", "--target", "y", "--plot", "t.png", *QUICK) == (
        "--plot draws up to 10 classes, and 'y' has 12; leave it out"
    )
    (here / "t.svg").write_text("a,b,y\n")
    assert "t.svg" in error("train", "moons", "--test", "t.svg", "--plot", "t.svg", *QUICK)
    assert "cannot write nowhere/m.png" in error(
        "train", "moons", "--plot", "nowhere/m.png", *QUICK
    )


def test_without_matplotlib_the_error_says_how_to_install_it(error, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert error("train", "moons", "--plot", "m.png", *QUICK) == (
        "matplotlib is needed here and is not installed; install it with: python -m pip install "
        "'nnaccel[plot]'"
    )
