"""Networks as modules of PyTorch, against the library."""

import io
import sys

import numpy as np
import pytest

import nnaccel as nn
from nnaccel.export.torch import sequential, torch_file
from nnaccel.maths.activations import ACTIVATIONS, Activation
from nnaccel.maths.layers import LAYERS, example
from tests.test_one_row import Scale, bent, bent_vjp


def check(torch, network, dtype=np.float64):
    rng = np.random.default_rng(0)
    params = nn.initialize(network)
    params = np.abs(params + 0.3 * rng.standard_normal(params.shape)).astype(dtype)
    X = (3 * rng.standard_normal((40, network.n_inputs))).astype(dtype)
    made = sequential(network, params)
    assert type(made) is torch.nn.Sequential
    content = io.BytesIO()
    torch.save(made, content)
    assert b"nnaccel" not in content.getvalue()
    content.seek(0)
    for module in (made, torch.load(content, weights_only=False)):
        found = module(torch.asarray(X)).detach().numpy()
        tolerance = 1e-5 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(
            found, nn.predict(network, params, X), rtol=tolerance, atol=tolerance
        )
    return made


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the modules are PyTorch's")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(torch, name, dtype):
    check(torch, nn.mlp(3, [5], 2, activation=name), dtype)


def test_parameters_of_activations(torch):
    for g in (nn.activations.get("leaky_relu", slope=0.3), nn.activations.get("elu", alpha=0.5)):
        check(torch, nn.mlp(3, [5], 2, activation=g))


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(torch, name):
    check(torch, nn.Network(4, (example(name, 4), nn.Dense(4, "tanh"), nn.Dense(2))))


def test_layers_inside_of_layers(torch):
    inner = nn.Residual((nn.PiecewiseLinear(((0.0, 1.0),)), nn.Dropout(0.9), nn.Dense(5)))
    network = nn.Network(4, (nn.Dense(5), nn.Residual((nn.LayerNorm(), inner)), nn.Dense(2)))
    made = check(torch, network)
    X = torch.ones((3, 4), dtype=torch.float64)
    assert not torch.equal(made.train()(X), made.eval()(X))  # dropout, within and all


def test_gelu_is_of_the_same_form(torch):
    made = sequential(nn.mlp(1, [1], 1, activation="gelu"), np.zeros(4, np.float32))
    assert [str(module) for module in made][1] == "GELU(approximate='tanh')"


def test_a_model_of_several_networks_is_a_list_of_them(torch, tmp_path):
    pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
    from tests.export.examples import fitted, table, target

    columns = table()
    model = fitted(columns, target(columns, "numbers"), members=3, numbers="piecewise")
    model.export(tmp_path / "m.pt")
    each = torch.load(tmp_path / "m.pt", weights_only=False)
    X = torch.asarray(model.features.transform(columns))
    with torch.no_grad():
        Z = torch.stack([network(X) for network in each]).mean(dim=0)[:, 0].numpy()
    found = Z * model.target.scale + model.target.mean
    np.testing.assert_allclose(found, model.outputs(columns), rtol=1e-5)


def test_what_pytorch_has_no_module_for_is_refused_by_name(torch):
    for layer, message in (
        (Scale(), r"layer 1, Scale\(first=0\.5\), cannot be written for PyTorch, which has no"),
        (nn.Dense(2, Activation("bent", bent, bent_vjp)), "layer 1: the activation 'bent' cannot"),
    ):
        network = nn.Network(2, (nn.Dense(2), layer, nn.Dense(1)))
        with pytest.raises(ValueError, match=message):
            sequential(network, nn.initialize(network))


def test_without_the_package_the_command_is_named(monkeypatch):
    pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
    from tests.export.examples import fitted, table, target

    model = fitted({"gaps": table()["gaps"]}, target(table(), "numbers"))
    monkeypatch.setitem(sys.modules, "torch", None)
    message = "torch is needed here and is not installed; install it with: python -m pip install t"
    with pytest.raises(ModuleNotFoundError, match=message):
        torch_file(model)
