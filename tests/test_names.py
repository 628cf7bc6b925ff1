"""Names that users meet: one thing has one name, strings serve as records, lists as tuples."""

import numpy as np
import pytest

import nnaccel as nn
from nnaccel.maths import activations, initializers, losses, metrics, optimizers, schedules
from nnaccel.tabular.settings import NAMES, Settings


@pytest.mark.parametrize(
    ("get", "name", "meant"),
    [
        (losses.get, "mse", "squared_error"),
        (losses.get, "mae", "absolute_error"),
        (losses.get, "cross_entropy", "softmax_cross_entropy"),
        (losses.get, "CrossEntropy", "softmax_cross_entropy"),
        (losses.get, "bce", "binary_cross_entropy"),
        (losses.get, "binary_crossentropy", "binary_cross_entropy"),
        (activations.get, "swish", "silu"),
        (initializers.get, "xavier_uniform", "glorot_uniform"),
        (lambda name: optimizers.get(name, 0.1), "NAG", "nesterov"),
        (lambda name: schedules.get(name, 0.1, 10), "invscaling", "inverse_scaling"),
        (lambda name: metrics.get(name, "squared_error"), "rmse", "RMSE"),
        (lambda name: Settings(loss=name), "mse", "squared_error"),
    ],
)
def test_a_name_of_others_is_answered_with_ours(get, name, meant):
    with pytest.raises(ValueError, match=rf"must be .*got '{name}'; did you mean '{meant}'\?"):
        get(name)


def test_a_name_is_meant_only_where_there_is_such_a_one():
    with pytest.raises(ValueError, match="got 'mse'$"):
        activations.get("mse")


def test_every_name_that_is_meant_is_in_a_table():
    from nnaccel.arguments import MEANT

    known = {name for table in NAMES.values() for name in table} | {*metrics.METRICS}
    assert {*MEANT.values()} <= known
    assert not {*MEANT} & {name for name in known if name.islower()}


def test_the_command_line_answers_alike(capsys):
    pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
    pytest.importorskip("rich", reason="the command line needs the extra [cli]")
    from nnaccel.cli.main import main

    assert main(["train", "diabetes", "--loss", "mse"]) != 0
    assert "did you mean 'squared_error'?" in capsys.readouterr().err


def test_sgd_is_gradient_descent():
    assert optimizers.get("sgd", 0.1) is optimizers.get("gd", 0.1)
    assert Settings(optimizer="sgd") == Settings(optimizer="gd")
    assert "sgd" in NAMES["optimizer"]


def test_a_layer_takes_the_name_of_an_activation():
    assert nn.Dense(16, "tanh") == nn.Dense(16, activations.get("tanh"))
    assert nn.Dense(np.int64(16)) == nn.Dense(16)
    with pytest.raises(ValueError, match="activation must be one of .*did you mean 'tanh'"):
        nn.Dense(16, "tahn")
    with pytest.raises(ValueError, match="initializer must be one of .*'he_normal'"):
        nn.Dense(16, initializer="henormal")
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        nn.Dense(0)


def test_lists_serve_as_tuples():
    layers = [nn.Dense(4, "relu"), nn.Residual([nn.Dense(4)]), nn.Dense(1)]
    network = nn.Network(2, layers)
    assert network == nn.Network(2, tuple(layers))
    assert hash(network) == hash(nn.Network(2, tuple(layers)))
    assert network._replace(n_inputs=3).layers == tuple(layers)
    settings = Settings(hidden=[8, 4], activation=["relu", "tanh"])
    assert settings == Settings(hidden=(8, 4), activation=("relu", "tanh"))
    quantiles = losses.get("pinball", quantile=[0.1, 0.9])
    assert quantiles == losses.get("pinball", quantile=(0.1, 0.9))


def test_train_takes_the_name_of_a_metric():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
    network = nn.mlp(3, [4], 2)
    options = {"loss": "softmax_cross_entropy", "epochs": 1}
    (named,) = nn.train(network, X, y, metric="accuracy", **options)
    (given,) = nn.train(network, X, y, metric=metrics.for_loss("softmax_cross_entropy"), **options)
    assert named.metric == given.metric
    with pytest.raises(ValueError, match="metric must be one of .*did you mean 'accuracy'"):
        nn.train(network, X, y, metric="acc", **options)
    with pytest.raises(TypeError, match="metric must be a name or a Metric"):
        nn.train(network, X, y, metric=len, **options)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (
            nn.mlp(64, [128, 64], 10, dropout=0.1),
            "Network(64-128-64-10, relu, dropout 0.1, 17,226 parameters)",
        ),
        (nn.mlp(3, [], 2), "Network(3-2, linear, 8 parameters)"),
        (
            nn.mlp(2, [3, 3, 3], 1, activation=["tanh", "relu", "tanh"]),
            "Network(2-3-3-3-1, tanh/relu, 37 parameters)",
        ),
        (
            nn.Network(
                4,
                [
                    nn.Dense(6, "tanh"),
                    nn.BatchNorm(),
                    nn.Residual([nn.Dense(7, "relu"), nn.Dropout(0.25), nn.Dense(6)]),
                    nn.Dropout(0.5),
                    nn.Dense(3),
                ],
            ),
            "Network(4-6-(7-6)-3, tanh/relu, dropout 0.25/0.5, BatchNorm, 160 parameters)",
        ),
        (nn.Network(4, [nn.Residual([nn.Dense(3)])]), "Network(4-(3), linear)"),
    ],
)
def test_a_network_shows_its_sizes(network, text):
    assert repr(network) == text
