"""A search: its trials are runs of their own, halved by rungs, and it goes on where it was."""

import math
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

import nnaccel as nn
from nnaccel.tabular import contest, tuning
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples, Rows
from nnaccel.tabular.space import Between, Choice, Times
from nnaccel.tabular.trials import Rung
from nnaccel.tabular.tuning import RUNGS, Clock, tune

from ..conftest import named

SMALL = Settings(hidden=(6,), members=2, numbers="both", epochs=5, batch_size=16)
SPACE = {
    "activation": Choice(("tanh",), ("relu",)),
    "learning_rate": Times(0.2, 2.0),
    "weight_decay": Between(0.01, 1.0),
}


def examples(task="regression", N=90):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 3))
    y = np.sin(2 * X[:, 0]) + X[:, 1]
    y = np.where(y > 0, "yes", "no") if task == "classification" else y
    return Examples("test", X, y, "y", None, task, None)


def searched(settings=SMALL, task="regression", **options):
    options = {"space": SPACE, "trials": 8, "seconds": None, **options}
    return [*tune(examples(task), settings, **options)]


def without_times(rungs):
    """The trials of each rung, without what a clock tells of them."""
    return [[trial._replace(seconds=0.0) for trial in rung.trials] for rung in rungs]


@pytest.fixture(scope="module")
def rungs():
    return searched()


@pytest.fixture
def one_rung(monkeypatch):
    monkeypatch.setattr(tuning, "RUNGS", (1.0,))


# ---------------------------------------------------------------------------- trials are runs


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize(
    ("settings", "weighted"),
    [(SMALL, True), (replace(SMALL, hidden=None, numbers="auto", batch_size=64), False)],
    ids=["both, weighted", "the best kind"],
)
def test_a_trial_has_the_score_that_its_fit_has_alone(settings, task, weighted, one_rung):
    """Whatever trains beside it: best epochs, calibration, dropout and batches are its own."""
    rows = examples(task)
    if weighted:
        rows = rows._replace(weights=np.random.default_rng(1).random(len(rows.y)) + 0.5)
    [rung] = tune(rows, settings, space=SPACE, trials=3, seconds=None)
    assert {trial.numbers for trial in rung.trials} == {"both"} or settings is not SMALL
    for trial in rung.trials:
        fit = Fit(rows, replace(settings, **trial.drawn, numbers=trial.numbers))
        for _ in fit:
            pass
        scores = fit.model().scores
        if task == "regression":
            assert trial.metric == pytest.approx(scores["out-of-fold RMSE"], rel=1e-4)
        else:
            assert trial.loss == pytest.approx(scores["out-of-fold log loss"], rel=1e-4)
            assert trial.metric == pytest.approx(scores["out-of-fold accuracy"])


@pytest.mark.parametrize("rest", [0, 1])
def test_one_network_is_validated_on_the_rows_that_are_set_aside(rest, one_rung):
    """A trial is then the single run on the other rows, the last batch of one row included."""
    settings = Settings(hidden=(6,), epochs=4, validation_fraction=0.25, batch_size=9)
    rows = examples(N=100 + rest)
    [rung] = tune(rows, settings, space=SPACE, trials=2, seconds=None)
    for trial in rung.trials:
        fit = Fit(rows, replace(settings, **trial.drawn))
        losses = [epoch.validation_loss for epoch in fit]
        assert trial.loss == pytest.approx(min(losses), rel=1e-4)
        assert trial.numbers == "plain"


def test_a_large_table_is_validated_on_one_fold(monkeypatch, one_rung):
    monkeypatch.setattr(contest, "FEW", 50)
    [rung] = tune(examples(), SMALL, space=SPACE, trials=2, seconds=None)
    [run, _] = rung.runs
    assert run.epoch.params.shape[0] == 1  # of one trial, one network
    monkeypatch.setattr(contest, "FEW", 5000)
    [rung] = tune(examples(), SMALL, space=SPACE, trials=2, seconds=None)
    assert rung.runs[0].epoch.params.shape[0] == 2


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_one_network_a_trial_goes_on_by_itself(task, monkeypatch, tmp_path):
    """Down to the last one, and from a file."""
    monkeypatch.setattr(contest, "FEW", 50)
    found = searched(task=task, trials=2)
    assert [len(rung.alive) for rung in found] == [2, 1, 0] or len(found[-1].alive) == 0
    found[-2].save(tmp_path / "c")
    rest = searched(task=task, trials=2, after=Rung.load(tmp_path / "c"))
    assert without_times(rest) == without_times(found[-1:])


def test_no_trial_sees_the_test_rows():
    rows, found = examples(), []
    for sign in (1.0, -1.0):
        test = Rows(rows.data[:20], sign * rows.y[:20])
        kept = rows._replace(data=rows.data[20:], y=rows.y[20:], test=test)
        found.append([*tune(kept, SMALL, space=SPACE, trials=2, seconds=None)][-1])
    assert without_times(found[:1]) == without_times(found[1:])


@pytest.mark.parametrize("device", ["torch", "jax"])
def test_other_devices_find_the_same(device, rungs, monkeypatch):
    named(device)
    monkeypatch.setattr(tuning, "RUNGS", RUNGS[:1])
    settings = replace(SMALL, numbers="plain")
    here, there = (searched(settings, trials=2, device=name)[-1] for name in ("cpu", device))
    for ours, theirs in zip(here.trials, there.trials, strict=True):
        assert ours.drawn == theirs.drawn
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)


# ---------------------------------------------------------------------------- halving


def test_the_best_third_and_the_default_go_on(rungs):
    first, *_ = rungs
    assert [len(trial.losses) for trial in first.trials] == [1, 1, 1, 1]
    by_loss = sorted(first.trials, key=lambda trial: trial.losses[0])
    assert {*first.alive} == {0, *(trial.number for trial in by_loss[:2])}
    second = next(rung for rung in rungs if len(rung.trials) == 8)
    losses = sorted(trial.losses[0] for trial in second.trials)
    expected = [t.number for t in second.trials[4:] if t.losses[0] <= losses[2]]
    assert [*second.alive] == expected


def test_the_default_is_compared_to_the_end_and_the_best_is_no_worse(rungs):
    last = rungs[-1]
    default = last.trials[0]
    assert default.drawn == {}
    assert len(default.losses) == len(RUNGS)
    assert last.best.loss <= default.loss
    assert last.best == min(
        (t for t in last.trials if len(t.losses) == len(RUNGS)), key=lambda t: t.loss
    )
    assert [rung.number for rung in rungs] == [*range(1, len(rungs) + 1)]


def test_losses_fall_from_rung_to_rung(rungs):
    for trial in rungs[-1].trials:
        assert list(trial.losses) == sorted(trial.losses, reverse=True)


def test_the_settings_are_those_of_the_best_trial(rungs):
    last = rungs[-1]
    assert last.best.drawn
    expected = replace(SMALL, **last.best.drawn, numbers=last.best.numbers)
    assert last.settings == expected


def test_the_default_is_left_as_it_was_given():
    """Where it is the best: here the others hardly move."""
    last = searched(space={"learning_rate": Choice(1e-9)}, trials=2)[-1]
    assert last.best.number == 0
    assert last.settings == SMALL


def test_a_trial_that_diverges_is_lost_and_the_others_go_on():
    settings = replace(SMALL, optimizer="gd", numbers="plain")
    space = {"learning_rate": Choice(1e30, 0.1), "activation": Choice(("relu",))}
    last = searched(settings, space=space, trials=8)[-1]
    lost = [trial for trial in last.trials if trial.drawn.get("learning_rate") == 1e30]
    kept = [trial for trial in last.trials if trial not in lost]
    assert lost
    assert all(trial.losses == (math.inf,) for trial in lost)
    assert all(math.isfinite(trial.loss) for trial in kept)
    assert last.best in kept


def test_where_all_of_the_first_trials_diverge_it_is_said():
    settings = replace(SMALL, optimizer="gd", learning_rate=1e30, activation=("relu",))
    with pytest.raises(FloatingPointError, match="training has diverged"):
        searched(settings, trials=2)


# ---------------------------------------------------------------------------- going on


def test_a_search_that_goes_on_is_the_undisturbed_one_in_every_bit(rungs, tmp_path):
    for rung in rungs[:-1]:
        rung.save(tmp_path / "c")
        after = Rung.load(tmp_path / "c")
        assert after.trials == rung.trials
        assert after.settings == rung.settings
        rest = searched(after=after)
        assert without_times(rest) == without_times(rungs[rung.number :])
        assert rest[0].number == rung.number + 1


def test_a_search_that_goes_on_may_have_more_trials(rungs):
    more = searched(after=rungs[-1], trials=12)
    assert more[-1].trials[:8] == rungs[-1].trials
    assert len(more[0].trials) == 12
    assert searched(after=rungs[-1]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {**SPACE, "dropout": Choice(0.1, 0.3)}}, "what was drawn for its trials is not"),
        ({"trials": 3}, "what was drawn for its trials is not"),
        ({"settings": replace(SMALL, epochs=6)}, "its epochs is 5, and now it is 6"),
        ({"settings": replace(SMALL, hidden=(7,))}, r"its hidden is \[6\], and now it is \[7\]"),
        ({"task": "classification"}, "the checkpoint is of another run"),
    ],
)
def test_a_search_goes_on_with_the_same_data_settings_and_space(rungs, options, message):
    with pytest.raises(ValueError, match=message):
        searched(after=rungs[-1], **options)


def test_a_file_of_another_kind_is_no_search(rungs, tmp_path):
    fit = Fit(examples(), SMALL, keeps=True)
    next(iter(fit))
    fit.save(tmp_path / "c")
    with pytest.raises(ValueError, match="c: not the checkpoint of a search: it has no key 'run'"):
        Rung.load(tmp_path / "c")


# ---------------------------------------------------------------------------- time, and errors


@pytest.fixture
def ticks(monkeypatch):
    """A clock that is a second further each time that somebody looks."""
    second = count()
    monkeypatch.setattr(Clock, "now", staticmethod(lambda: float(next(second))))


def test_the_time_ends_a_search_with_room_for_the_fit(ticks):
    whole = searched()
    limit = whole[-1].seconds + whole[-1].best.seconds / 2  # the fit would end too late
    found = searched(seconds=limit)
    assert 1 <= len(found) < len(whole)
    assert found[-1].seconds + found[-1].best.seconds <= limit
    for ours, theirs in zip(without_times(found), without_times(whole), strict=False):
        assert ours == theirs


def test_the_first_epoch_which_may_compile_tells_nothing_of_the_others():
    assert tuning.pace([1.0]) == 0.0
    assert tuning.pace([1.0, 9.0]) == 8.0
    assert tuning.pace([1.0, 9.0, 10.0, 12.0]) == 1.5


@pytest.mark.parametrize(
    ("seconds", "about"), [(3, ""), (8, r", which takes about \d+")], ids=["at once", "foreseen"]
)
def test_a_time_that_is_too_short_for_a_rung_is_an_error(ticks, seconds, about):
    """How long it takes is said where an epoch after the first one has told."""
    message = (
        rf"^seconds must be enough for the first rung{about}, got {seconds}; give it more time, or "
        r"fewer trials$"
    )
    with pytest.raises(ValueError, match=message):
        searched(seconds=seconds)


@pytest.mark.parametrize("seconds", [0, -1.0, math.inf, math.nan])
def test_seconds_are_a_time(seconds):
    with pytest.raises(ValueError, match="seconds must be above 0 and finite, or None, got"):
        tune(examples(), SMALL, seconds=seconds)


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="trials must be at least 2, got 1"):
        tune(examples(), SMALL, trials=1)
    given = replace(SMALL, activation=("relu",), learning_rate=0.1, weight_decay=0.3)
    with pytest.raises(ValueError, match=r"is given \(activation, learning_rate, weight_decay\)"):
        tune(examples(), given, space=SPACE)


def test_a_streamed_table_is_refused(tmp_path):
    (tmp_path / "d.csv").write_text("x,y\n" + "1,2\n3,4\n" * 20)
    with pytest.raises(ValueError, match="examples must be in memory, got a streamed table; tune"):
        tune(nn.stream(str(tmp_path / "d.csv"), "y"))
