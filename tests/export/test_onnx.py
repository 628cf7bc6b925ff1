"""Models as ONNX graphs, run by onnxruntime, against what the library predicts."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the graphs are of the package onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the oracle is onnxruntime")

import onnx

import nnaccel as nn
from nnaccel.export.onnx import network_model, table_model
from nnaccel.maths.activations import ACTIVATIONS, Activation
from nnaccel.maths.layers import LAYERS, example
from nnaccel.maths.losses import Loss, squared_error
from nnaccel.maths.network import layout, views
from tests.export.examples import coded, fitted, outputs_of, table, target
from tests.test_one_row import Scale, bent, bent_vjp

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def run(model, inputs):
    """The outputs of a graph by their names."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def assert_close(found, expected):
    """Numbers are equal to 1e-5 of their spread."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.std(expected))


# ---------------------------------------------------------------------------- the table


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_column(dtype):
    columns = table()
    model = fitted(columns, target(columns, "two words"), dtype=dtype)
    kinds = {model.features.reading(c).kind for c in model.features.numeric}
    kinds |= {c.kind for c in model.features.categorical}
    assert kinds == {"number", "date", "time", "duration", "string", "boolean"}
    assert {c.bend for c in model.features.numeric} == {True, False}
    assert model.features.readings["codes"].codes == (-9999.0,)
    assert {c.other for c in model.features.categorical} == {True, False}
    graph = table_model(model)
    for rows in (columns, table(1, 8), table(2, 4)):  # also new values, and gaps that are new
        found = run(graph, model.inputs(rows))
        expected = outputs_of(model, rows)
        np.testing.assert_allclose(found["y probabilities"], expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found["y"], model.target.predicted(expected))
        assert found["y probabilities"].dtype == np.float64
    assert np.ptp(expected[:, 1]) > 1e-3


def test_categories_that_are_numbers():
    columns = coded()
    model = fitted(columns, target(columns, "numbers"))
    assert [c.kind for c in model.features.categorical] == ["number", "number"]
    rows = {"level": [1.5, None, 40.0, 7.0], "many": [3.0, 999.0, 129.0, None], "x": [0.0] * 4}
    inputs = {name: np.array(v, dtype=np.float64) for name, v in rows.items()}
    found = run(table_model(model), inputs)["y"]
    assert_close(found, outputs_of(model, rows))
    assert len({*np.round(found)}) == 4


def test_what_inputs_hold_is_said_in_the_graph():
    columns = table()
    model = fitted(columns, target(columns, "two words"))
    inputs = {i.name: i for i in table_model(model).graph.input}
    assert [*inputs] == [*columns]
    assert inputs["date"].doc_string == "seconds since 1970-01-01 00:00, NaN where missing"
    assert inputs["text"].doc_string == "text without blanks around it, empty where missing"
    kinds = {name: i.type.tensor_type.elem_type for name, i in inputs.items()}
    assert {n for n, k in kinds.items() if k == onnx.TensorProto.STRING} == {
        "text", "text without gaps", "many",
    }  # fmt: skip
    assert {*kinds.values()} == {onnx.TensorProto.STRING, onnx.TensorProto.DOUBLE}
    for shape in (i.type.tensor_type.shape for i in inputs.values()):
        assert [axis.dim_param for axis in shape.dim] == ["rows"]


@pytest.mark.parametrize("numbers", ["plain", "piecewise", "both"])
def test_members_and_the_encoding_of_numbers(numbers):
    columns = {"gaps": table()["gaps"], "long tail": table()["long tail"]}
    y = target(columns, "three words")
    model = fitted(columns, y, members=3, numbers=numbers, hidden=(5, 4))
    assert model.members == (6 if numbers == "both" else 3)
    found = run(table_model(model), model.inputs(columns))
    expected = outputs_of(model, columns)
    np.testing.assert_allclose(found["y probabilities"], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["y"], model.target.predicted(expected))


@pytest.mark.parametrize("kind", ["whole numbers", "flags", "three words"])
def test_classes_of_every_kind(kind):
    columns = {"gaps": table()["gaps"]}
    model = fitted(columns, target(columns, kind), name="label")
    found = run(table_model(model), model.inputs(columns))
    expected = model.predict(columns)
    assert found["label"].dtype == (object if kind == "three words" else expected.dtype)
    np.testing.assert_array_equal(found["label"], expected)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "pinball"])
def test_numbers_in_their_units(loss):
    columns = table()
    kind = "amounts" if loss == "poisson" else "numbers"
    model = fitted(columns, target(columns, kind), loss=loss)
    found = run(table_model(model), model.inputs(columns))
    assert [*found] == ["y"]
    assert_close(found["y"], outputs_of(model, columns))


def test_several_targets():
    import pyarrow as pa

    columns = table()
    words = target(columns, "two words")
    for y, members in (
        ({"a": target(columns, "numbers"), "b": target(columns, "amounts")}, 1),
        ({"a": words, "b": np.roll(words, 1)}, 3),
    ):
        model = fitted(columns, pa.table(y), name="a, b", members=members)
        found, expected = run(table_model(model), model.inputs(columns)), outputs_of(model, columns)
        for k, (name, predicted) in enumerate(model.target.predicted(expected).items()):
            if model.target.task == "regression":
                assert_close(found[name], predicted)
                continue
            np.testing.assert_array_equal(found[name], predicted)
            P = found[f"{name} probabilities"]
            np.testing.assert_allclose(P[:, 1], expected[:, k], rtol=0, atol=1e-5)
            np.testing.assert_allclose(P.sum(axis=1), 1)


def test_names_that_the_graph_has_too():
    names = ["y", "constant 0", "Add 3", "y predicted"]
    columns = dict.fromkeys(names, table()["gaps"]) | {"gaps": table()["gaps"]}
    columns |= {name: np.roll(columns[name], i + 1).tolist() for i, name in enumerate(names)}
    model = fitted(columns, target(columns, "numbers"))
    found = run(table_model(model), model.inputs(columns))
    assert [*found] == ["y predicted predicted"]
    assert_close(next(iter(found.values())), outputs_of(model, columns))


def test_a_column_without_a_name_is_refused():
    columns = {"": table()["gaps"], "gaps": table()["gaps"]}
    model = fitted(columns, target(columns, "numbers"))
    with pytest.raises(ValueError, match="a column without a name cannot be an input of ONNX; ren"):
        table_model(model)


def test_without_the_package_the_command_is_named(monkeypatch):
    columns = {"gaps": table()["gaps"]}
    model = fitted(columns, target(columns, "numbers"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = r"onnx is needed here and is not installed; install it with: python -m pip install "
    with pytest.raises(ModuleNotFoundError, match=message + r"'nnaccel\[onnx\]'$"):
        model.to_onnx()


# ---------------------------------------------------------------------------- the network


def graph_of(network, params):
    """The logits of a network as a graph with the one output Z."""
    tree = views(params, layout(network), xp=np)
    return network_model(network, tree, lambda Z: Z.xp.declare("Z", Z))


def check(network, members=None, spread=1.0, dtype=np.float64):
    """A graph gives what `predict` does, for parameters with something in all of their places."""
    rng = np.random.default_rng(0)
    params = nn.initialize(network, members=members)
    params = np.abs(params + 0.3 * rng.standard_normal(params.shape)).astype(dtype)
    X = (spread * rng.standard_normal((40, network.n_inputs))).astype(dtype)
    expected = nn.predict(network, params, X)
    found = run(graph_of(network, params), {"X": X})["Z"]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, **CLOSE)
    one = run(graph_of(network, params), {"X": X[:1]})["Z"]
    np.testing.assert_allclose(one, expected[..., :1, :], **CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name, dtype):
    for spread in (1.0, 20.0):
        check(nn.mlp(3, [5], 2, activation=name), spread=spread, dtype=dtype)


@pytest.mark.parametrize(
    "activation",
    [
        nn.activations.get("leaky_relu", slope=0.3),
        nn.activations.get("elu", alpha=0.5),
    ],
    ids=lambda activation: activation.name,
)
def test_parameters_of_activations(activation):
    check(nn.mlp(3, [5], 2, activation=activation))


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name, members):
    layers = (example(name, 4), nn.Dense(4, "tanh"), nn.Dense(2))
    check(nn.Network(4, layers), members=members)


def test_layers_inside_of_layers():
    inner = nn.Residual((nn.Dense(3, "gelu"), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(5)))
    check(nn.Network(4, (nn.Dense(5), nn.Residual((nn.LayerNorm(), inner)), nn.Dense(2))))


def test_rows_of_ones_own_are_written_too():
    own = Activation("bent", bent, bent_vjp)
    check(nn.Network(3, (nn.Dense(4, own), Scale(), nn.Dense(2))))


def sorted_units(Z, *, xp):
    return xp.sort(Z, axis=-1)


def branching(Z, *, xp):
    return Z if xp.max(Z) > 0 else -Z


def to_numpy(Z, *, xp):
    return np.exp(Z)


@dataclass(frozen=True)
class Numbers(Scale):
    def forward(self, params, X, *, ops, key, training=False):
        return ops.xp.asarray(X.tolist()), X


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Dense(3, Activation("own", sorted_units, bent_vjp)), "xp.sort has no operator of ONNX"),
        (nn.Dense(3, Activation("own", branching, bent_vjp)), "a branch on numbers that are known"),
        (nn.Dense(3, Activation("own", to_numpy, bent_vjp)), "operand 'Traced' does not support"),
        (Numbers(), "'Traced' object has no attribute 'tolist'"),
    ],
)
def test_what_has_no_operators_is_refused_by_name(layer, reason):
    network = nn.Network(2, (nn.Dense(2), layer, nn.Dense(2)))
    with pytest.raises(ValueError, match="layer 1, .* cannot be written as ONNX: ") as error:
        graph_of(network, nn.initialize(network))
    assert reason in str(error.value)
    assert type(layer).__name__ in str(error.value)


def test_a_link_without_operators_is_refused_by_name():
    columns = {"gaps": table()["gaps"]}
    model = fitted(columns, target(columns, "numbers"))
    own = Loss("own", squared_error, sorted_units)
    with pytest.raises(ValueError, match="the loss 'own' cannot be written as ONNX: xp.sort has"):
        table_model(model._replace(loss=own))


def test_a_softmax_is_one_operator():
    columns = {"gaps": table()["gaps"]}
    model = fitted(columns, target(columns, "three words"), activation=("relu",), members=2)
    kinds = [node.op_type for node in table_model(model).graph.node]
    assert (kinds.count("Softmax"), kinds.count("Relu"), kinds.count("Exp")) == (1, 1, 0)


def test_operators_are_those_that_runtimes_know():
    network = nn.mlp(3, [5, 4], 2, activation=["relu", "sigmoid"])
    nodes = graph_of(network, nn.initialize(network)).graph.node
    assert [node.op_type for node in nodes] == [
        "MatMul", "Add", "Relu", "MatMul", "Add", "Sigmoid", "MatMul", "Add", "Identity",
    ]  # fmt: skip
