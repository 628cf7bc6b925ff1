"""Models as one file of NumPy, run in a process without nnaccel, against the library."""

import math
import pickle
import runpy
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
import pyarrow as pa

import nnaccel as nn
from nnaccel.export.numpy_file import numpy_file
from nnaccel.maths import losses
from nnaccel.maths.activations import ACTIVATIONS, Activation
from nnaccel.maths.layers import LAYERS, example
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.targets import Target
from tests.export.examples import coded, fitted, outputs_of, table, target
from tests.test_one_row import Scale, bent, bent_vjp


@pytest.fixture
def written(tmp_path):
    """The functions of the file of a model."""

    def written(model):
        (tmp_path / "m.py").write_text(numpy_file(model, "m"), encoding="utf-8")
        return runpy.run_path(str(tmp_path / "m.py"))

    return written


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_column(written, dtype):
    columns = table()
    model = fitted(columns, target(columns, "two words"), dtype=dtype)
    own = written(model)
    for rows in (columns, table(1, 8), table(2, 4)):
        inputs, expected = model.inputs(rows), outputs_of(model, rows)
        np.testing.assert_allclose(own["predict_proba"](inputs), expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(own["predict"](inputs), model.target.predicted(expected))
        assert own["encode"](inputs).dtype == dtype


def test_it_needs_numpy_alone_and_takes_what_numpy_has(tmp_path):
    columns = table()
    model = fitted(columns, target(columns, "three words"), members=3, numbers="piecewise")
    model.export(tmp_path / "m.py")
    inputs = model.inputs(columns) | {
        "date": np.array(columns["date"], dtype="M8[D]"),
        "duration": model.inputs(columns)["duration"].astype("m8[s]"),
        "gaps": np.array(columns["gaps"], dtype=object),  # None is missing
        "text": columns["text"],  # too
        "flag": np.array(columns["flag"]),
        "more": [0] * len(columns["date"]),
    }
    (tmp_path / "inputs").write_bytes(pickle.dumps(inputs))
    code = (
        "import pickle, sys, warnings; warnings.simplefilter('error'); sys.path.insert(0, '.');"
        "from m import predict, predict_proba; table = pickle.load(open('inputs', 'rb'));"
        "assert 'nnaccel' not in sys.modules; pickle.dump((predict(table), predict_proba(table)),"
        "open('outputs', 'wb'))"
    )
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
    labels, P = pickle.loads((tmp_path / "outputs").read_bytes())
    np.testing.assert_allclose(P, outputs_of(model, columns), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(labels, model.target.predicted(P))


def test_categories_that_are_numbers(written):
    columns = coded()
    model = fitted(columns, target(columns, "numbers"))
    rows = {"level": [1.5, None, 40.0, 7.0], "many": [3.0, 999.0, 129.0, None], "x": [0.0] * 4}
    np.testing.assert_allclose(written(model)["predict"](rows), outputs_of(model, rows), rtol=1e-6)


def test_several_targets(written):
    columns = table()
    words = target(columns, "two words")
    for y in (
        {"a": target(columns, "numbers"), "b": target(columns, "amounts")},
        {"a": words, "b": np.roll(words, 1)},
    ):
        model = fitted(columns, pa.table(y), name="a, b")
        own, expected = written(model), outputs_of(model, columns)
        found = own["predict"](model.inputs(columns))
        for name, values in model.target.predicted(expected).items():
            if model.target.task == "regression":
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(found[name], values)
    P = own["predict_proba"](model.inputs(columns))
    np.testing.assert_allclose(P["b"][:, 1], expected[:, 1], rtol=0, atol=1e-6)


def model_of(network, members=None, loss="squared_error"):
    """A model of a matrix with a network of one's own and something in all parameters."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, network.n_inputs))
    params = nn.initialize(network, members=members)
    params = np.abs(params + 0.3 * rng.standard_normal(params.shape))
    target = Target("regression", "y", mean=3.0, scale=2.0)
    model = nn.Model(network, params, losses.get(loss), fit_features(X), target, [], {}, {})
    return model, X


def check(written, network, members=None):
    model, X = model_of(network, members)
    found = written(model)["predict"]({f"x{i}": x for i, x in enumerate(X.T)})
    np.testing.assert_allclose(found, model.outputs(X), rtol=1e-12, atol=1e-12)
    return found


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(written, name):
    check(written, nn.mlp(3, [5], 1, activation=name))


def test_parameters_of_activations(written):
    steep = nn.activations.get("leaky_relu", slope=0.3)
    check(written, nn.mlp(3, [5], 1, activation=steep))


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(written, name, members):
    layers = (example(name, 4), nn.Dense(4, "tanh"), nn.Dense(1))
    check(written, nn.Network(4, layers), members=members)


def test_layers_inside_of_layers(written):
    inner = nn.Residual((nn.PiecewiseLinear(((0.0, 1.0),)), nn.BatchNorm(), nn.Dense(5)))
    layers = (nn.Dense(5), nn.Residual((nn.LayerNorm(), inner)), nn.Dropout(0.1), nn.Dense(1))
    check(written, nn.Network(4, layers))


def test_an_activation_of_ones_own_is_in_the_file(written):
    check(written, nn.mlp(3, [5], 1, activation=Activation("bent", bent, bent_vjp)))


@pytest.mark.parametrize("name", ['"""', "a\\nb", "a\nb", "'", "{x}", "ü", "\u2028"])
def test_names_of_any_characters(written, name):
    columns = {name: table()["gaps"], "gaps": table()["text"], "x": table()["gaps"]}
    columns["gaps"] = [f"{v}{name}" if v else None for v in columns["gaps"]]
    y = np.where(np.array([v or 0.0 for v in columns["x"]]) > 0, f"yes {name}", "no")
    model = fitted(columns, y, name=f"y {name}")
    np.testing.assert_array_equal(
        written(model)["predict"](model.inputs(columns)), model.predict(columns)
    )


@dataclass(frozen=True)
class Unwritten(Scale):
    pass


def made(source):
    names = {}
    exec(source, names)
    return names["g"]


def uses_a_list(Z, *, xp):
    return Z * THINGS[0]


def encode(Z, *, xp):
    return Z


def uses_weights(Z, *, xp):
    return Z * WEIGHTS


def uses_another(Z, *, xp):
    return Z * math.tau


THINGS = [1.0]
WEIGHTS = 2.0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Unwritten(), r"layer 1, Unwritten\(first=0\.5\), cannot be written as NumPy: it is no"),
        (made("def g(Z, *, xp): return Z"), "g has no text that stands alone; define it with def"),
        (lambda Z, *, xp: Z, "<lambda> has no text that stands alone"),
        (uses_a_list, "uses_a_list uses THINGS, which is no function, number or text, and cannot"),
        (encode, "what an activation calls 'encode' is something else in the file"),
        (uses_weights, "what an activation calls 'WEIGHTS' is something else in the file"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(layer, message):
    layer = nn.Dense(2, Activation("own", layer, bent_vjp)) if callable(layer) else layer
    model, _ = model_of(nn.Network(2, (nn.Dense(2), layer, nn.Dense(1))))
    with pytest.raises(ValueError, match=message):
        numpy_file(model)


def test_two_functions_of_one_name_are_refused():
    own = Activation("own", made("def tanh(Z, *, xp): return Z\ng = tanh"), bent_vjp)
    model, _ = model_of(nn.mlp(2, [2, 2], 1, activation=["tanh", own]))
    with pytest.raises(ValueError, match="two different things are called 'tanh'; rename one of"):
        numpy_file(model)


def test_modules_are_imported(written):
    check(written, nn.mlp(3, [5], 1, activation=Activation("own", uses_another, bent_vjp)))
