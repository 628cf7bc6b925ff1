"""Checkpoints: a run that was ended and goes on in new arrays has the bits of one that was not."""

import json

import numpy as np
import pytest

from nnaccel import schema
from nnaccel.devices.device import to_host
from nnaccel.maths import losses, schedules
from nnaccel.maths.layers import BatchNorm, Dense, Dropout
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.optimizers import OPTIMIZERS, adamw, clipped
from nnaccel.maths.optimizers import get as optimizer_of
from nnaccel.training import checkpoint, model_file, safe_file
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train
from nnaccel.training.step import initialize

from ..conftest import named

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((90, 3)), rng.integers(0, 2, 90)
HELD_OUT = rng.standard_normal((30, 3)), rng.integers(0, 2, 30)
NETWORK = Network(3, (Dense(6, "tanh"), BatchNorm(), Dropout(0.2), Dense(5, "relu"), Dense(2)))
DEVICES = [("cpu", True), ("cpu", "numpy"), ("cpu", False), ("torch", True), ("jax", True)]


def run(network=NETWORK, after=None, **options):
    options = {"loss": "softmax_cross_entropy", "epochs": 5, "batch_size": 16, **options}
    return train(network, X, Y, validation_data=HELD_OUT, after=after, **options)


def vectors(epoch):
    return [np.array(to_host(x)) for x in (epoch.params, epoch.state.step, *epoch.state.slots)]


def undisturbed(**options):
    """The last epoch, and the best one."""
    stopping = EarlyStopping(None)
    *_, last = stopping(run(**options))
    return vectors(last), stopping


def interrupted(path, **options):
    """The same by a new run for every epoch, each from the file of the one before."""
    after, saved = None, None
    for _ in range(5):
        stopping = EarlyStopping(None, after=saved)
        epoch = next(iter(stopping(run(after=after, **options))))
        checkpoint.save(path, epoch, stopping=stopping)
        del epoch, stopping
        saved = checkpoint.load(path)
        after = saved.epoch
    return saved


def assert_same(path, **options):
    expected, stopping = undisturbed(**options)
    saved = interrupted(path, **options)
    assert saved.epoch.number == 5
    for mine, theirs in zip(vectors(saved.epoch), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)
    np.testing.assert_array_equal(saved.best.numbers, stopping.numbers)
    np.testing.assert_array_equal(saved.best.epoch.params, to_host(stopping.best.params))
    assert saved.best.epoch.scores().keys() == stopping.best.scores().keys()
    for name, value in stopping.best.scores().items():
        np.testing.assert_array_equal(saved.best.epoch.scores()[name], value)


# ---------------------------------------------------------------------------- in bits


@pytest.mark.parametrize("name", [*OPTIMIZERS, "clipped"])
@pytest.mark.parametrize(("device", "kernels"), DEVICES)
def test_a_run_that_goes_on_from_files_has_the_same_bits(tmp_path, device, kernels, name):
    """With dropout, batch normalisation, a schedule, and a last batch that is short."""
    named(device)
    rate = schedules.one_cycle(0.05, 30)
    optimizer = clipped(adamw(rate), 0.5) if name == "clipped" else optimizer_of(name, rate)
    assert_same(tmp_path / "c", device=device, kernels=kernels, optimizer=optimizer)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_every_schedule(tmp_path, name):
    assert_same(tmp_path / "c", optimizer=optimizer_of("adam", schedules.get(name, 0.05, 30)))


@pytest.mark.parametrize(("dtype", "precision"), [
    ("float32", "float32"), ("float64", "float32"), ("float32", "tf32"), ("float32", "bf16"),
])  # fmt: skip
@pytest.mark.parametrize(("device", "kernels"), DEVICES)
def test_every_precision(tmp_path, device, kernels, dtype, precision):
    named(device)
    assert_same(tmp_path / "c", device=device, kernels=kernels, dtype=dtype, precision=precision)


@pytest.mark.parametrize(("device", "kernels"), DEVICES)
def test_several_networks_with_the_best_epoch_of_each(tmp_path, device, kernels):
    named(device)
    network = mlp(3, [6], 2, activation="tanh", dropout=0.1)
    params = initialize(network, 0, members=3)
    held_out = tuple(np.stack([a[k : k + 20] for k in range(3)]) for a in HELD_OUT)
    options = {"network": network, "device": device, "kernels": kernels, "params": params}

    def run_of_three(after=None):
        return train(
            loss="softmax_cross_entropy", epochs=6, batch_size=16, validation_data=held_out,
            after=after, X=X, Y=Y, optimizer=optimizer_of("adam", 0.2), **options,
        )  # fmt: skip

    whole = EarlyStopping(None)
    *_, last = whole(run_of_three())
    expected = vectors(last)
    saved = None
    for _ in range(6):
        stopping = EarlyStopping(None, after=saved)
        epoch = next(iter(stopping(run_of_three(saved and saved.epoch))))
        checkpoint.save(tmp_path / "c", epoch, stopping=stopping)
        saved = checkpoint.load(tmp_path / "c")
    for mine, theirs in zip(vectors(saved.epoch), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(saved.best.numbers, whole.numbers)
    assert len({*whole.numbers.tolist()}) > 1
    np.testing.assert_array_equal(saved.best.epoch.params, to_host(whole.best.params))


def test_a_run_that_has_stopped_early_does_not_go_on(tmp_path):
    options = {"optimizer": optimizer_of("adam", 0.3), "epochs": 200}
    whole = EarlyStopping(4)
    seen = [epoch.number for epoch in whole(run(**options))]
    stopping = EarlyStopping(4)
    for epoch in stopping(run(**options)):
        checkpoint.save(tmp_path / "c", epoch, stopping=stopping)
        if epoch.number == seen[-1] - 2:
            break
    saved = checkpoint.load(tmp_path / "c")
    stopping = EarlyStopping(4, after=saved)
    rest = []
    for epoch in stopping(run(after=saved.epoch, **options)):
        rest.append(epoch.number)
        checkpoint.save(tmp_path / "c", epoch, stopping=stopping)
    assert rest == seen[-2:]
    assert stopping.best.number == whole.best.number
    saved = checkpoint.load(tmp_path / "c")
    stopping = EarlyStopping(4, after=saved)
    assert not [*stopping(run(after=saved.epoch, **options))]
    assert stopping.best.number == whole.best.number


def test_what_the_user_adds_comes_back(tmp_path):
    history = [{"loss": 0.5, "odd": float("nan")}, {"loss": float("inf"), "odd": 1.0}]
    epoch = next(run())
    checkpoint.save(tmp_path / "c", epoch, history=history, extra={"fold": 3})
    saved = checkpoint.load(tmp_path / "c")
    assert saved.extra == {"fold": 3}
    assert repr([*saved.history]) == repr(history)
    assert saved.best is None
    assert saved.epoch.loss == epoch.loss
    assert saved.epoch.validation_loss == epoch.validation_loss


def test_another_device_may_go_on(tmp_path):
    pytest.importorskip("torch")
    checkpoint.save(tmp_path / "c", next(run(dtype="float64")))
    after = checkpoint.load(tmp_path / "c").epoch
    *_, here = run(after=after, dtype="float64", device="cpu")
    *_, there = run(after=after, dtype="float64", device="torch")
    np.testing.assert_allclose(here.params, to_host(there.params), rtol=1e-9)


# ---------------------------------------------------------------------------- what is refused


def test_another_run_does_not_go_on(tmp_path):
    checkpoint.save(tmp_path / "c", next(run()))
    after = checkpoint.load(tmp_path / "c").epoch
    for name, value in {"batch_size": 8, "seed": 1, "short_batch": "full"}.items():
        with pytest.raises(ValueError, match=f"that of epoch 1 has {name} "):
            run(after=after, **{name: value})


def test_what_cannot_be_kept_costs_no_older_file(tmp_path):
    checkpoint.save(tmp_path / "c", next(run()))
    before = (tmp_path / "c").read_bytes()
    made = Epoch(1, np.zeros(3), None)
    with pytest.raises(ValueError, match="made by hand belongs to no run"):
        checkpoint.save(tmp_path / "c", made)
    epochs = run()
    gone = next(epochs)
    next(epochs)
    with pytest.raises(RuntimeError, match="the vectors of epoch 1 are gone"):
        checkpoint.save(tmp_path / "c", gone)
    own = losses.get("squared_error")._replace(name="mine")
    with pytest.raises(ValueError, match="a file cannot hold the loss 'mine'"):
        checkpoint.save(tmp_path / "c", next(run(loss=own, network=mlp(3, [2], 1))))
    with pytest.raises(ValueError, match="extra must be JSON-like data"):
        checkpoint.save(tmp_path / "c", next(run()), extra={"a": {1, 2}})
    assert (tmp_path / "c").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_models_and_checkpoints_are_told_apart(tmp_path):
    network = mlp(3, [2], 1)
    model_file.save(tmp_path / "m", network, initialize(network), loss="squared_error")
    checkpoint.save(tmp_path / "c", next(run()))
    assert checkpoint.is_checkpoint(tmp_path / "c")
    assert not checkpoint.is_checkpoint(tmp_path / "m")
    assert not model_file.is_model(tmp_path / "c")
    with pytest.raises(ValueError, match="it is an nnaccel model file, not a checkpoint"):
        checkpoint.load(tmp_path / "m")
    with pytest.raises(ValueError, match="it is an nnaccel checkpoint file, not a model"):
        model_file.load(tmp_path / "c")


def forged(path, change):
    """The file with another header and vectors, and the right digest of them."""
    header, tensors = safe_file.read(path, checkpoint.FORMAT)
    change(header["runs"][0], tensors)
    text = json.dumps(header)
    from safetensors.numpy import save

    path.write_bytes(save(tensors, safe_file.metadata(text, tensors)))


def put(*way):
    *way, key, value = way

    def change(run, tensors):
        for step in way:
            run = run[step]
        run[key] = value

    return change


FORGERIES = {
    "number 0": (put("last", "number", 0), "'number' must be a positive integer"),
    "no step": (put("last", "step", None), "without a step has no memory"),
    "step": (put("last", "step", -1), "'step' must be an integer below 2\\^31, not negative"),
    "slots": (put("last", "slots", 5), "'slots' must be a small number"),
    "missing": (put("last", "slots", 3), "the tensor '0.last.slot2' is missing"),
    "too many": (put("last", "slots", 1), "unknown tensors: 0.last.slot1"),
    "dtype": (put("settings", "dtype", "float32"), "vectors must be float32"),
    "seed": (put("settings", "seed", 2**64), "'seed' must be an integer from 0"),
    "scores": (put("last", "scores", {"loss": [1.0]}), "a score for each of its networks"),
    "unknown score": (put("last", "scores", {"lost": 1.0}), "unknown scores: lost"),
    "best later": (put("best", "numbers", 9), "a number that does not fit"),
    "best shape": (put("best", "numbers", [1]), "other shapes than the last one"),
    "history": (put("history", [{"loss": "x"}]), "'loss' must be a number"),
    "optimizer": (put("settings", "optimizer", None), "'optimizer' must be a string"),
    "not finite": (
        lambda run, tensors: tensors["0.last.params"].__setitem__(0, np.nan),
        "parameters must be finite",
    ),
    "shape": (
        lambda run, tensors: tensors.__setitem__("0.last.slot0", np.zeros(3)),
        "all alike, got float64 of shape \\(3,\\)",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused_in_one_line(tmp_path, name):
    change, words = FORGERIES[name]
    path, stopping = tmp_path / "c", EarlyStopping(None)
    checkpoint.save(path, next(stopping(run())), stopping=stopping)
    checkpoint.load(path)
    forged(path, change)
    with pytest.raises(ValueError, match=f"not a checkpoint that can be used: .*{words}") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_an_altered_file_is_not_believed(tmp_path):
    checkpoint.save(tmp_path / "c", next(run()))
    content = bytearray((tmp_path / "c").read_bytes())
    content[-1] ^= 1
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ValueError, match="altered since it was written"):
        checkpoint.load(tmp_path / "c")


def test_numbers_that_json_has_not_are_written_as_text():
    values = [1.5, float("inf"), [float("-inf"), 2], np.float64(0.5), np.array([1.0, 2.0])]
    assert schema.number(schema.plain(values)) == [1.5, np.inf, [-np.inf, 2], 0.5, [1.0, 2.0]]
