"""The space of a search: what is drawn of it, and what it refuses."""

import numpy as np
import pytest

from nnaccel.tabular.settings import Settings
from nnaccel.tabular.space import SPACE, TUNABLE, Between, Choice, Times, draws, narrowed

DEFAULTS = Settings(learning_rate=0.005, batch_size=128, epochs=20, weight_decay=0.2, dropout=0.1)


def drawn(space, trials=12, size=4, **settings):
    return draws(space, Settings(**settings), DEFAULTS, trials, size)


def test_the_first_trial_is_the_default_and_its_group_has_its_architecture():
    groups = drawn(SPACE)
    assert [len(group) for group in groups] == [4, 4, 4]
    assert groups[0][0] == {}
    for trial in groups[0][1:]:
        assert trial.keys() == {"learning_rate", "weight_decay"}
    architectures = []
    for group in groups[1:]:
        each = [{n: t[n] for n in ("hidden", "activation", "dropout")} for t in group]
        assert each == [each[0]] * 4
        architectures.append(each[0])
    assert architectures[0] != architectures[1]


def test_draws_are_of_their_ranges():
    rates, decays = np.array(
        [(t["learning_rate"], t["weight_decay"]) for g in drawn(SPACE, 400) for t in g if t]
    ).T
    assert 0.0015 <= rates.min() < 0.0016
    assert 0.0145 < rates.max() <= 0.015
    assert 0.01 <= decays.min() < 0.011
    assert 0.95 < decays.max() <= 1.0
    assert abs(np.median(np.log(decays)) - np.log(0.1)) < 0.2
    assert all(float(f"{rate:.3g}") == rate for rate in rates)


def test_more_trials_are_the_same_ones_and_others():
    assert drawn(SPACE, 20)[:3] == drawn(SPACE, 12)
    assert drawn(SPACE, seed=1) != drawn(SPACE)


def test_values_are_as_settings_hold_them():
    space = {
        "hidden": Choice([16, 8]),
        "batch_size": Times(0.5, 0.5),
        "epochs": Between(30.4, 30.4),
        "l2": Choice(np.float64(0.25)),
    }
    last = drawn(space, 2, 1)[-1][0]
    assert last == {"hidden": (16, 8), "batch_size": 64, "epochs": 30, "l2": 0.25}
    assert [type(last[name]) for name in ("hidden", "batch_size", "l2")] == [tuple, int, float]


def test_without_rates_to_draw_trials_train_one_by_one():
    assert [len(group) for group in drawn({"dropout": Choice(0.0, 0.2)}, 3)] == [1, 1, 1]


def test_what_is_given_leaves_the_space():
    left = narrowed(SPACE, Settings(hidden=(64,), learning_rate=0.01))
    assert left.keys() == {"activation", "dropout", "weight_decay"}


@pytest.mark.parametrize("name", TUNABLE)
def test_all_that_can_be_tuned_is_a_setting(name):
    assert hasattr(Settings(), name)


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ({"seed": Choice(0, 1)}, ValueError, "space: 'seed' is not a setting to tune; these are "),
        ({"learning_rat": Choice(0.1)}, ValueError, "did you mean 'learning_rate'"),
        (
            {"dropout": (0.0, 0.1)},
            TypeError,
            r"space: dropout must be a Choice, Between or Times, got \(0.0, 0.1\); for one value: "
            r"Settings\(dropout=...\)",
        ),
        ({"dropout": Choice(0.1, 1.5)}, ValueError, "dropout must be at least 0 and below 1"),
        ({"dropout": Between(0.1, 1.5)}, ValueError, "dropout must be at least 0 and below 1"),
        ({"activation": Choice("tanh")}, TypeError, "activation must be a tuple"),
        ({}, ValueError, "space has nothing to draw: it is empty; leave a setting"),
        ({"l2": Choice(0.0)}, ValueError, r"space has nothing to draw: all of it is given \(l2\)"),
    ],
)
def test_spaces_that_cannot_be_are_refused(space, error, message):
    with pytest.raises(error, match=message):
        narrowed(space, Settings(l2=0.1))


def test_a_default_times_a_number_must_be_possible():
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1, got 2"):
        drawn({"dropout": Times(20.0, 20.0)})
    with pytest.raises(TypeError, match="clip_norm has no default to multiply; give it Between"):
        drawn({"clip_norm": Times(0.5, 2.0)})


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_numbers_that_have_no_logarithm_are_refused(ends):
    message = r"must be from a number above 0 to a larger one, got .*; for other values: Choice"
    for kind in (Between, Times):
        with pytest.raises(ValueError, match=f"{kind.__name__} {message}"):
            kind(*ends)
    with pytest.raises(ValueError, match="a Choice needs at least one value"):
        Choice()
