"""Arguments that are whole numbers: of whichever library, and nothing that only looks like one."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from nnaccel.arguments import at_least
from nnaccel.maths.layers import Dense
from nnaccel.maths.network import mlp
from nnaccel.tabular.settings import Settings
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.loop import train
from nnaccel.training.step import initialize

KINDS = [int, np.int8, np.uint8, np.int64, np.uint64, np.array]


@pytest.mark.parametrize("kind", KINDS)
def test_integers_of_every_kind_become_pythons(kind):
    found = at_least(0, epochs=kind(3), seed=kind(0))
    assert found == [3, 0]
    assert [type(number) for number in found] == [int, int]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "units must be a whole number of at least 1, got True"),
        (np.True_, "units must be a whole number of at least 1, got .*True.*"),
        (3.0, r"units must be a whole number of at least 1, got 3\.0; use int\(3\.0\)"),
        (np.float64(3), r"units must be .*, got np.float64\(3\.0\); use int\(np.float64\(3\.0\)\)"),
        (2.5, r"units must be a whole number of at least 1, got 2\.5$"),
        (np.nan, "units must be a whole number of at least 1, got nan$"),
        (np.float64(np.inf), "units must be a whole number of at least 1, got .*inf.*$"),
        ("3", "units must be a whole number of at least 1, got '3'$"),
        (None, "units must be a whole number of at least 1, got None$"),
        ([3], r"units must be a whole number of at least 1, got \[3\]$"),
    ],
)
def test_what_is_no_whole_number_is_named_with_the_remedy(value, message):
    with pytest.raises(TypeError, match=message):
        at_least(1, units=value)
    with pytest.raises(TypeError, match=message):
        Dense(value)


def test_what_is_below_the_least_is_named():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1$"):
        at_least(0, epochs=3, seed=np.int64(-1))


def test_a_run_takes_integers_of_numpy_and_no_flags():
    X, Y = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
    network, numbers = mlp(3, [4], 2), {"epochs": 2, "batch_size": 8, "seed": 1}
    loss = "softmax_cross_entropy"
    plain = [e.loss for e in train(network, X, Y, loss=loss, **numbers)]
    numpys = {name: np.int64(number) for name, number in numbers.items()}
    assert [e.loss for e in train(network, X, Y, loss=loss, **numpys)] == plain
    for name in numbers:
        with pytest.raises(TypeError, match=f"{name} must be a whole number .*, got True"):
            train(network, X, Y, loss=loss, **numbers | {name: True})
    with pytest.raises(TypeError, match="seed must be a whole number of at least 0, got True"):
        initialize(network, True)
    with pytest.raises(TypeError, match="patience must be a whole number .*, got True"):
        EarlyStopping(True)
    assert type(Dense(np.int64(3)).units) is int


def test_settings_are_plain_numbers_which_a_model_file_can_hold():
    given = {"hidden": (np.int64(8),), "epochs": np.int32(3), "batch_size": np.uint8(16)}
    given |= {"seed": np.int64(2), "dropout": np.float32(0.5), "learning_rate": np.float64(0.1)}
    settings = Settings(**given, early_stopping=np.int64(0))
    assert {name: getattr(settings, name) for name in given} == {
        "hidden": (8,),
        "epochs": 3,
        "batch_size": 16,
        "seed": 2,
        "dropout": 0.5,
        "learning_rate": 0.1,
    }
    assert json.loads(json.dumps(asdict(settings)))["hidden"] == [8]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "early_stopping", "seed", "dropout"])
def test_a_flag_is_no_setting_that_is_a_number(name):
    with pytest.raises(TypeError, match=f"{name} must be .*, got True"):
        Settings(**{name: True})


def test_units_and_seed_of_settings_are_whole():
    with pytest.raises(TypeError, match="hidden must be a whole number of at least 1, got True"):
        Settings(hidden=(8, True))
    with pytest.raises(ValueError, match="seed must be a whole number from 0 .*, got 2.5"):
        Settings(seed=2.5)
