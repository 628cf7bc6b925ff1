"""Settings: each is checked, and each that is left open is decided as `resolve` says."""

import json
from dataclasses import fields, replace

import pytest

from nnaccel.maths.layers import Dense, Dropout
from nnaccel.tabular.settings import (
    LEAST,
    NAMES,
    RANGES,
    Settings,
    build,
    even_batch,
    resolve,
    to_dict,
    variants,
)


def test_nothing_stays_open():
    for N, n_classes in ((100, 2), (100, 0), (50_000, 10), (50_000, 0)):
        resolved = resolve(Settings(), N, n_classes)
        assert "auto" not in (resolved.task, resolved.loss, *resolved.activation)
        for name in ("hidden", "dropout", "learning_rate", "batch_size", "epochs", "members"):
            assert getattr(resolved, name) is not None
        for kind in variants(Settings(), N, n_classes):
            assert kind.numbers != "auto"
            assert resolve(kind, N, n_classes) == kind


@pytest.mark.parametrize("N", [1, 2, 3, 149, 1999, 2000, 60_000, 10_000_000])
def test_the_defaults_that_the_docstring_states(N):
    resolved = resolve(Settings(), N, 3)
    if 50 <= N <= 100_000:
        assert (resolved.members, resolved.numbers) == (5, "auto")
        assert resolved.validation_fraction == 0
    else:
        assert (resolved.members, resolved.numbers) == (1, "piecewise")
    if N < 50:
        assert (resolved.hidden, resolved.epochs) == ((128, 64), 60)
        assert 16 <= resolved.batch_size <= 64
        assert resolved.validation_fraction == 0
    else:
        assert resolved.hidden == (256, 128, 64)
        assert 10 <= resolved.epochs <= 60
        lowest, highest = (16, 64) if N < 500 else (128, 1024)
        assert lowest <= resolved.batch_size <= highest
        assert resolved.validation_fraction * N <= 5000.0001
        assert resolved.validation_fraction <= 0.15
    assert (resolved.dropout, resolved.dropout_until, resolved.weight_decay) == (0.1, 0.75, 0.2)


@pytest.mark.parametrize("N", [1, 1999, 2000, 60_000])
def test_one_plain_network_has_the_defaults_that_the_docstring_states(N):
    resolved = resolve(Settings(members=1, numbers="plain"), N, 3)
    if N < 2000:
        assert (resolved.hidden, resolved.epochs) == ((128, 64), 60)
        assert 16 <= resolved.batch_size <= 64
        assert resolved.validation_fraction == 0
    else:
        assert resolved.hidden == (256, 128, 64)
        assert resolved.validation_fraction == min(0.15, 5000 / N)
    assert (resolved.dropout, resolved.dropout_until, resolved.weight_decay) == (0.1, 1.0, 0.05)


def test_a_network_that_is_laid_out_is_one_plain_network():
    for given in ({"hidden": (32,)}, {"hidden": ()}):
        resolved = resolve(Settings(**given), 5000, 2)
        assert (resolved.members, resolved.numbers) == (1, "plain")
    pixels = resolve(Settings(), 5000, 2, pixels=True)
    assert (pixels.members, pixels.numbers) == (1, "plain")
    assert resolve(Settings(hidden=(32,), members=3), 5000, 2).members == 3
    assert resolve(Settings(validation_fraction=0.2), 5000, 2).members == 1


def test_auto_and_both_train_a_kind_each():
    for numbers in ("auto", "both"):
        plain, piecewise = variants(Settings(numbers=numbers), 5000, 0)
        assert (plain.numbers, plain.weight_decay, plain.dropout) == ("plain", 0.05, 0.0)
        assert (piecewise.numbers, piecewise.weight_decay) == ("piecewise", 0.2)
        assert piecewise.dropout == 0.1
        assert plain.members == piecewise.members == 5
    assert [kind.numbers for kind in variants(Settings(members=1), 5000, 0)] == ["piecewise"]


def test_members_and_a_validation_fraction_exclude_each_other():
    with pytest.raises(ValueError, match="members are validated on folds of the rows; leave"):
        Settings(members=5, validation_fraction=0.1)
    with pytest.raises(ValueError, match="members are validated on folds of the rows; leave"):
        Settings(numbers="both", validation_fraction=0.1)
    assert resolve(Settings(early_stopping=5), 100, 3).members == 5
    with pytest.raises(ValueError, match="numbers 'both' is a mean of several networks"):
        Settings(members=1, numbers="both")


@pytest.mark.parametrize("batch_size", [1, 3, 128, 1000])
@pytest.mark.parametrize("N", [1, 2, 127, 128, 129, 3584, 3585, 10_001])
def test_batches_are_as_even_as_can_be(N, batch_size):
    B = even_batch(batch_size, N)
    steps = -(-N // B)
    assert steps <= max(1, N // batch_size)  # no more than whole batches of the size asked for
    last = N - (steps - 1) * B
    assert B - last < steps  # no batch lacks more than a row for each of the others
    assert min(batch_size, N) <= B


def test_the_defaults_by_task():
    assert resolve(Settings(), 100, 2).loss == "binary_cross_entropy"
    assert resolve(Settings(), 100, 3).loss == "softmax_cross_entropy"
    assert resolve(Settings(), 100, 0).loss == "squared_error"
    assert resolve(Settings(numbers="plain"), 5000, 0).dropout == 0
    assert resolve(Settings(), 100, 3).activation == ("tanh",)
    assert resolve(Settings(), 100, 3, pixels=True).activation == ("relu",)
    assert resolve(Settings(optimizer="gd"), 100, 3).weight_decay == 0
    assert resolve(Settings(early_stopping=5, members=1), 100, 3).validation_fraction == 0.15


def test_a_convex_loss_takes_larger_steps():
    deep, linear = (resolve(Settings(hidden=hidden), 100, 2) for hidden in ((8,), ()))
    assert linear.learning_rate > deep.learning_rate


GIVEN = {
    "hidden": (3, 4),
    "activation": ("relu",),
    "dropout": 0.0,
    "learning_rate": 0.7,
    "batch_size": 5,
    "epochs": 3,
    "weight_decay": 0.0,
    "validation_fraction": 0.0,
    "loss": "softmax_cross_entropy",
    "seed": 4,
}


@pytest.mark.parametrize("N", [100, 5000])
@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_stays(name, N):
    assert getattr(resolve(Settings(**{name: GIVEN[name]}), N, 2), name) == GIVEN[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", (0,)),
        ("hidden", (4, -1)),
        ("epochs", 0),
        ("batch_size", 0),
        ("early_stopping", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("dropout_until", 1.5),
        ("members", 0),
        ("numbers", "splines"),
        ("validation_fraction", 1.0),
        ("label_smoothing", 1.0),
        ("quantile", 0.0),
        ("quantile", 1.0),
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("clip_norm", 0.0),
        ("weight_decay", -1e-9),
        ("l2", float("inf")),
        ("class_weight", "even"),
        ("task", "cluster"),
        ("activation", ("relu", "rellu")),
        ("initializer", "hee"),
        ("loss", "log"),
        ("optimizer", "adamm"),
        ("schedule", "cosin"),
        ("dtype", "float16"),
        ("precision", "float16"),
    ],
)
def test_what_is_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", 3, r"hidden must be a tuple, .*, got 3; for one: \(3,\)"),
        ("activation", "relu", r"activation must be a tuple, .*; for one: \('relu',\)"),
        ("epochs", 1.5, "epochs must be a whole number of at least 1, got 1.5"),
        ("batch_size", "a", "batch_size must be a whole number of at least 1, got 'a'"),
        ("dropout", "a", "dropout must be at least 0 and below 1, got 'a'"),
    ],
)
def test_what_is_of_another_kind_is_named(name, value, message):
    with pytest.raises(TypeError, match=message):
        Settings(**{name: value})


def test_every_setting_is_checked_by_some_rule():
    checked = {*NAMES, *RANGES, *LEAST, "hidden", "class_weight", "scoring"}
    assert checked == {field.name for field in fields(Settings)}


def test_a_lower_precision_is_for_float32():
    Settings(precision="tf32")
    with pytest.raises(ValueError, match="precision='tf32' is for dtype float32, got float64: "):
        Settings(precision="tf32", dtype="float64")


def test_early_stopping_needs_rows_to_tell_by():
    with pytest.raises(ValueError, match="early_stopping needs rows to tell by"):
        Settings(early_stopping=3, validation_fraction=0.0)


@pytest.mark.parametrize(
    ("loss", "n_classes"),
    [("huber", 3), ("softmax_cross_entropy", 0), ("binary_cross_entropy", 3)],
)
def test_a_loss_for_another_task(loss, n_classes):
    with pytest.raises(ValueError, match=f"loss '{loss}' is not for"):
        resolve(Settings(loss=loss), 100, n_classes)


def built(n_classes=3, **settings):
    return build(resolve(Settings(**settings), 100, n_classes), 4, n_classes or 1, 100)


def test_the_network_that_is_built():
    network, loss, _ = built(hidden=(5, 6), activation=("relu", "tanh"), dropout=0.3)
    kinds = [Dense, Dropout, Dense, Dropout, Dense]
    assert [type(layer) for layer in network.layers] == kinds
    assert [layer.activation.name for layer in network.layers[:4:2]] == ["relu", "tanh"]
    assert (network.n_inputs, network.n_outputs, loss.name) == (4, 3, "softmax_cross_entropy")
    assert built(hidden=())[0].layers == (Dense(3),)


def test_the_options_of_a_loss():
    assert dict(built(label_smoothing=0.1)[1].options) == {"label_smoothing": 0.1}
    loss = built(0, loss="pinball", quantile=0.9)[1]
    assert dict(loss.options) == {"quantile": 0.9}
    with pytest.raises(ValueError, match="'squared_error' has no parameter 'label_smoothing'"):
        built(0, label_smoothing=0.1)
    with pytest.raises(ValueError, match="has no parameter 'quantile'"):
        built(0, loss="huber", quantile=0.5)


def test_activations_must_be_one_or_one_a_layer():
    with pytest.raises(ValueError, match="one for each of the 2 hidden layers, got 3"):
        built(hidden=(5, 6), activation=("relu",) * 3)


@pytest.mark.parametrize("optimizer", NAMES["optimizer"])
@pytest.mark.parametrize("schedule", NAMES["schedule"])
def test_every_optimizer_with_every_schedule_in_the_shortest_run(optimizer, schedule):
    built(optimizer=optimizer, schedule=schedule, epochs=1, batch_size=1000, clip_norm=1.0)


def test_settings_as_data():
    settings = replace(Settings(), hidden=(3, 4), activation=("relu", "tanh"))
    data = json.loads(json.dumps(to_dict(settings)))
    restored = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    assert Settings(**restored) == settings
