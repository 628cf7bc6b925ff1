"""Runs of tables that are interrupted: what is kept, and that they go on to the same model."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from nnaccel.devices.device import select
from nnaccel.tabular import branch as branches
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples
from nnaccel.training import checkpoint

from ..conftest import named

SETTINGS = Settings(hidden=(8,), epochs=4, batch_size=16, seed=3)
SEVERAL = replace(SETTINGS, members=3, numbers="auto", early_stopping=3)


def examples(task="classes", n=120, shift=0.0, names=("x", "z")):
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, n)) + shift
    y = x + np.abs(z) + 0.3 * rng.standard_normal(n)
    target = np.where(y > 0.8, "yes", "no") if task == "classes" else 100 * y
    table = pa.table(dict(zip(names, (x, z), strict=True)))
    return Examples("t", table, pa.chunked_array([pa.array(target)]), "y", None, "auto", None)


def fit(settings=SETTINGS, task="classes", after=None, device="cpu", **options):
    return Fit(examples(task, **options), settings, keeps=True, after=after, device=select(device))


def finished(run):
    for _ in run:
        pass
    return run.model()


def assert_equal_models(found, expected, tmp_path):
    """In every byte of their files."""
    found.save(tmp_path / "found")
    expected.save(tmp_path / "expected")
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


@pytest.mark.parametrize("task", ["classes", "numbers"])
@pytest.mark.parametrize("settings", [SETTINGS, SEVERAL], ids=["single", "members"])
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_a_run_that_is_ended_after_every_epoch_gives_the_same_model(
    tmp_path, device, settings, task
):
    named(device)
    expected = finished(fit(settings, task, device=device))
    after, epochs = None, 0
    while True:
        run = fit(settings, task, after=after, device=device)
        if next(iter(run), None) is None:
            break
        run.save(tmp_path / "c")
        after, epochs = checkpoint.load(tmp_path / "c"), epochs + 1
    assert epochs > 3
    assert_equal_models(run.model(), expected, tmp_path)


class Stop(BaseException):
    """As a signal raises it, anywhere."""


@pytest.mark.parametrize("settings", [SETTINGS, SEVERAL], ids=["single", "members"])
@pytest.mark.parametrize("validated", [True, False])
def test_an_epoch_that_is_given_up_has_changed_nothing(tmp_path, settings, validated, monkeypatch):
    """Where the epochs write over their vectors, the last whole one is still there."""
    if not validated and settings.members is None:
        settings = replace(settings, validation_fraction=0.0)
    expected = finished(fit(settings))
    calls = 0

    def interrupting(step):
        def interrupted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == 20:
                raise Stop
            return step(*args, **kwargs)

        return interrupted

    from nnaccel.training import step

    real = step.make_step
    monkeypatch.setattr(step, "make_step", lambda *a, **k: interrupting(real(*a, **k)))
    run = Fit(examples(), settings, keeps=True, kernels=False)
    with pytest.raises(Stop):
        finished(run)
    monkeypatch.undo()
    seen = run.branches[0].history
    assert len(seen) == run.branches[0].progress.epoch.number >= 1
    assert run.model().history == seen
    run.save(tmp_path / "c")
    run = Fit(examples(), settings, after=checkpoint.load(tmp_path / "c"), kernels=False)
    whole = finished(Fit(examples(), settings, kernels=False))
    assert_equal_models(finished(run), whole, tmp_path)
    assert expected.network == whole.network


def test_an_interruption_between_an_epoch_and_its_record_is_none(monkeypatch):
    run = fit()
    epochs = iter(run)
    next(epochs)
    before = run.branches[0].progress
    monkeypatch.setattr(branches, "Done", lambda *_: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        next(epochs)
    after = run.branches[0].progress
    assert after.epoch is before.epoch
    assert after.history == before.history
    assert len(run.history) == 1


def test_epochs_may_grow(tmp_path):
    run = fit()
    finished(run)
    run.save(tmp_path / "c")
    after = checkpoint.load(tmp_path / "c")
    longer = fit(replace(SETTINGS, epochs=6), after=after)
    assert [epoch.number for epoch in longer] == [5, 6]
    assert len(longer.model().history) == 6
    with pytest.raises(ValueError, match="it has 4 epochs, and now there are 3; epochs may grow"):
        fit(replace(SETTINGS, epochs=3), after=after)


DIFFERENT = {
    "its learning_rate is None, and now it is 0.5; give it the same": {
        "settings": replace(SETTINGS, learning_rate=0.5)
    },
    "its seed is 3, and now it is 4": {"settings": replace(SETTINGS, seed=4)},
    "its members is None, and now it is 3": {"settings": replace(SETTINGS, members=3)},
    "its table has other columns, such as 'w'": {"names": ("x", "w")},
    "its table has other columns, in another order": {"names": ("z", "x")},
    "train rows, and now there are": {"n": 121},
    "its data are others, though they have the same rows and columns": {"shift": 1e-9},
}


@pytest.mark.parametrize("words", DIFFERENT)
def test_another_run_is_refused_with_what_differs(tmp_path, words):
    run = fit()
    next(iter(run))
    run.save(tmp_path / "c")
    after = checkpoint.load(tmp_path / "c")
    fit(after=after)
    with pytest.raises(ValueError, match="the checkpoint is of another run: ") as caught:
        fit(after=after, **DIFFERENT[words])
    assert words in str(caught.value)


def test_the_checkpoint_of_something_else_is_refused(tmp_path):
    run = fit()
    epoch = next(iter(run))
    checkpoint.save(tmp_path / "c", epoch, extra={"mine": 1})
    with pytest.raises(ValueError, match="the checkpoint of a table has no key 'kinds'"):
        fit(after=checkpoint.load(tmp_path / "c"))


def test_before_the_first_epoch_there_is_nothing_to_keep(tmp_path):
    with pytest.raises(RuntimeError, match="nothing to keep"):
        fit().save(tmp_path / "c")
    run = Fit(examples(), SETTINGS)
    next(iter(run))
    with pytest.raises(RuntimeError, match=r"use Fit\(keeps=True\)"):
        run.save(tmp_path / "c")
