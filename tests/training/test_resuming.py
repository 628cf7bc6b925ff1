"""Going on after an epoch: whose vectors it has, and that the run is the same one."""

import copy
import pickle

import numpy as np
import pytest

from nnaccel.devices.device import select, to_host
from nnaccel.maths import losses, schedules
from nnaccel.maths.layers import Dense
from nnaccel.maths.network import mlp
from nnaccel.maths.optimizers import (
    OPTIMIZERS,
    State,
    _optimizer,
    adam,
    clipped,
    lion,
    momentum,
)
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train

from ..conftest import named

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
NETWORK = mlp(3, [6], 2, activation="tanh")
GONE = r"the vectors of epoch {} are gone: .*; keep epoch\.copy\(\) before it begins"
SETS = [
    ("cpu", True),
    ("cpu", "numpy"),
    ("cpu", False),
    ("torch", True),
    ("torch", False),
    ("jax", True),
]


def run(network=NETWORK, X=X, Y=Y, **options):
    options = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 8, **options}
    return train(network, X, Y, **options)


def vectors(epoch):
    return [np.array(to_host(x)) for x in (epoch.params, *epoch.state.slots)]


# Whose vectors they are


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "one's own"])
@pytest.mark.parametrize(("device", "kernels"), SETS)
def test_an_epoch_gives_its_own_vectors_or_says_that_they_are_gone(device, kernels, optimizer):
    named(device)
    if optimizer == "one's own":
        # Its decay is a kernel that writes over parameters, which its rule then makes anew.
        optimizer = _optimizer(
            lambda params, grads, state, rate, ops: (params - rate * grads, ()), 0, 0.1, 0.1
        )
    seen = []
    for epoch in run(device=device, kernels=kernels, optimizer=optimizer, epochs=4):
        seen.append((epoch, vectors(epoch)))
    for epoch, expected in seen:
        if kernels and epoch.number < 4:
            with pytest.raises(RuntimeError, match=GONE.format(epoch.number)):
                vectors(epoch)
            continue
        for mine, theirs in zip(vectors(epoch), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kernels", [True, "numpy"])
@pytest.mark.parametrize(
    "use",
    [
        lambda epoch: epoch.params,
        lambda epoch: epoch.state,
        lambda epoch: epoch.copy(),
        lambda epoch: run(after=epoch, epochs=5),
    ],
    ids=["params", "state", "copy", "after"],
)
@pytest.mark.parametrize("asked", [True, False])
def test_no_use_is_made_of_what_has_been_written_over(use, kernels, asked):
    epochs = run(kernels=kernels)
    first = next(epochs)
    kept = first.copy()
    expected = vectors(first) if asked else vectors(kept)
    next(epochs)
    with pytest.raises(RuntimeError, match=GONE.format(1)):
        use(first)
    for mine, theirs in zip(vectors(kept), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    use(kept)


def test_it_says_so_already_while_the_next_epoch_is_made():
    """Which may end in the middle, with an interruption, say."""

    class Interrupted(Exception):
        pass

    def interrupt(step, *, xp):
        if float(np.max(step)) >= 8:
            raise Interrupted
        return 0.1 + 0.0 * step

    epochs = run(optimizer=adam(interrupt))
    first = next(epochs)
    vectors(first)
    with pytest.raises(Interrupted):
        next(epochs)
    with pytest.raises(RuntimeError, match=GONE.format(1)):
        first.copy()


def test_the_last_epoch_and_copies_go_on():
    whole = [epoch.loss for epoch in run(epochs=6)]
    *_, last = run(epochs=3)
    assert [epoch.loss for epoch in run(epochs=6, after=last)] == whole[3:]
    kept = [epoch.copy() for epoch in run(epochs=3)]
    assert [epoch.loss for epoch in run(epochs=6, after=kept[1])] == whole[2:]
    assert [e.loss for e in run(epochs=6, after=pickle.loads(pickle.dumps(last)))] == whole[3:]
    assert [e.loss for e in run(epochs=6, after=copy.deepcopy(kept[0]))] == whole[1:]


def test_a_run_that_goes_on_leaves_the_epoch_that_it_goes_on_from():
    *_, last = run()
    before = vectors(last)
    list(run(epochs=6, after=last))
    for mine, theirs in zip(vectors(last), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# That it is the same run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": mlp(3, [7], 2)}, r"network Network\(3-6-2.*, and this one Network\(3-7-2"),
        ({"loss": "squared_error", "Y": np.ones((40, 2))}, "loss softmax.*, and this one squared"),
        (
            {"loss": losses.get("softmax_cross_entropy", label_smoothing=0.1)},
            "loss softmax_cross_entropy, and this one softmax_cross_entropy, label_smoothing=0.1",
        ),
        ({"optimizer": "momentum"}, "optimizer adam, and this one momentum"),
        ({"optimizer": clipped(lion(0.1), 1.0)}, "optimizer adam, and this one lion"),
        ({"batch_size": 16}, "batch_size 8, and this one 16"),
        ({"seed": 1}, "seed 0, and this one 1"),
        ({"shuffle": False}, "shuffle True, and this one False"),
        ({"dtype": "float32"}, "dtype float64, and this one float32"),
        ({"X": X[:30], "Y": Y[:30]}, "n_samples 40, and this one 30"),
    ],
)
@pytest.mark.parametrize("kept", ["the last epoch", "a copy"])
def test_another_run_is_named(options, message, kept):
    *_, last = run()
    last = last.copy() if kept == "a copy" else last
    with pytest.raises(ValueError, match=f"after must be an epoch of the same run.* has {message}"):
        run(after=last, epochs=5, **options)


def test_what_changes_no_number_or_is_an_option_may_change():
    *_, last = run(batch_size=64)
    for options in (
        {"epochs": 9},
        {"batch_size": 40},  # as many as all
        {"optimizer": adam(schedules.cosine(0.01, 9), weight_decay=0.1)},
        {"optimizer": clipped(adam(0.1), 1.0)},
        {"validation_data": (X, Y)},
        {"metric": "accuracy"},
        {"kernels": False},
        {"device": select("cpu")},
        {"l2": 0.1},
    ):
        assert next(run(after=last, **{"epochs": 4, "batch_size": 64, **options})).number == 4


def test_an_epoch_made_by_hand_is_of_any_run_that_it_fits():
    params = next(run(epochs=1)).copy().params
    state = State(np.zeros((), np.int32), (0.0 * params,))
    epoch = Epoch(1, params, state)
    options = {"after": epoch, "optimizer": momentum(0.1), "epochs": 2, "batch_size": 5}
    assert next(run(**options)).number == 2
    with pytest.raises(ValueError, match=r"after.state must hold 2 vectors like params, \(38,\)"):
        run(**options | {"optimizer": "adam"})
    with pytest.raises(ValueError, match="params"):
        run(network=mlp(3, [7], 2), **options)
    short = Epoch(1, params, State(state.step, (params[:3],)))
    with pytest.raises(ValueError, match=r"after.state must hold 1 vectors.* got \[\(3,\)\]"):
        run(**options | {"after": short})


def test_settings_are_those_of_a_network_by_its_parts():
    """Equal networks are one, however they were made."""
    *_, last = run()
    same = NETWORK._replace(layers=[Dense(6, "tanh"), Dense(2)])
    assert next(run(network=same, after=last, epochs=4)).number == 4
