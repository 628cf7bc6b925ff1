"""Devices that run out of memory: one error for all libraries, and a run that fits afterwards."""

import weakref
from importlib import import_module

import numpy as np
import pytest

from nnaccel.devices.device import Device, select
from nnaccel.maths import losses
from nnaccel.maths.layers import Dense, Residual
from nnaccel.maths.network import Network, layout, mlp
from nnaccel.training import data as data_module
from nnaccel.training import device_errors, loop, prediction
from nnaccel.training.device_errors import (
    batch_that_fits,
    explain_device_errors,
    is_out_of_memory,
    needs,
    size,
)
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

NETWORK = mlp(4, [8], 1)
SQUARED = losses.get("squared_error")


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class CUDARuntimeError(RuntimeError):
    pass


def jax_error(message):
    return import_module("jax").errors.JaxRuntimeError(message)


def torch_error(message):
    return import_module("torch").OutOfMemoryError(message)


ERRORS = [
    (MemoryError, "Unable to allocate 7.45 GiB for an array with shape (10, 10)"),
    (OutOfMemoryError, "Out of memory allocating 1,000,000,000 bytes (allocated so far: 2 bytes)."),
    (CUDARuntimeError, "cudaErrorMemoryAllocation: out of memory"),
    (RuntimeError, "CUBLAS_STATUS_ALLOC_FAILED"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
    (torch_error, "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB"),
    (jax_error, "RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes."),
]


def examples(N=4096):
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, 4)), rng.standard_normal((N, 1))


def made(make, message):
    try:
        return make(message)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_every_library_says_it_in_its_own_way(make, message):
    assert is_out_of_memory(made(make, message))


@pytest.mark.parametrize(
    "error", [ValueError("out of memory"), RuntimeError("shapes do not match"), KeyError("x")]
)
def test_other_errors_are_other_errors(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), explain_device_errors(select("cpu"), NETWORK, "float32"):
        raise error


@pytest.mark.parametrize("name", ["cpu", "torch"])
@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_a_run_that_takes_too_much_says_which_batch_fits_and_leaves_nothing(
    monkeypatch, name, make, message
):
    pytest.importorskip("torch")
    error, calls, alive, given_back = made(make, message), [], [], []

    def exhausting(Z, Y, weights=None, *, xp):
        calls.append(Z.shape)
        alive.append(weakref.ref(Z))
        if Z.shape[0] > 1000:
            raise error
        return SQUARED.function(Z, Y, weights, xp=xp)

    def put(*args):
        data = data_module.put(*args)
        alive.extend(weakref.ref(x) for x in (data.X, data.Y))
        return data

    monkeypatch.setattr(loop, "put", put)
    monkeypatch.setattr(Device, "memory_free", lambda self: 2**20)
    monkeypatch.setattr(Device, "give_back", lambda self: given_back.append(self.name))
    monkeypatch.setattr(data_module, "_fits", lambda *_: True)
    X, Y = examples()
    options = {
        "loss": losses.Loss("exhausting", exhausting, losses.identity),
        "device": name,
        "dtype": "float32",
        "epochs": 1,
    }
    said = r"^not enough memory on '.*' \(" + message[:12].replace("[", r"\[")
    with pytest.raises(MemoryError, match=said) as raised:
        list(train(NETWORK, X, Y, batch_size=4096, **options))
    assert raised.value.__cause__ is error
    assert given_back == [select(name).name]
    assert not any(reference() is not None for reference in alive)
    text = str(raised.value)
    assert "1.0 MiB are free" in text
    assert f"the data {size(4 * (X.size + Y.size))}" in text
    assert "\n" not in text
    fits = int(text.rpartition("batch_size=")[2].partition(" ")[0])
    monkeypatch.setattr(Device, "memory_free", lambda self: None)
    (epoch,) = train(NETWORK, X, Y, batch_size=min(fits, 1000), **options)
    assert np.isfinite(epoch.loss)


def test_a_network_that_is_too_large_for_the_machine():
    X, Y = np.zeros((2, 2**16), np.float32), np.zeros((2, 1), np.float32)
    network = mlp(2**16, [2**30], 1)  # the first array of weights is one of 256 TB
    with pytest.raises(MemoryError, match="not enough memory on 'cpu' .*use fewer units"):
        train(network, X, Y, loss=SQUARED)


def test_prediction_says_it_too(monkeypatch):
    def exhausted(*args, **kwargs):
        raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(prediction, "rows_of", exhausted)
    with pytest.raises(MemoryError, match="fewer rows at a time, or another device$"):
        predict(NETWORK, initialize(NETWORK), examples()[0])


def test_estimators_say_it_too(monkeypatch):
    pytest.importorskip("sklearn")
    from nnaccel import MLPRegressor
    from nnaccel.estimators import lbfgs_fit
    from nnaccel.training import prediction

    X, Y = examples(100)
    fitted = MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", max_iter=500, tol=1.0).fit(
        X, Y[:, 0]
    )

    def exhausted(*args, **kwargs):
        raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(prediction, "rows_of", exhausted)
    monkeypatch.setattr(lbfgs_fit, "value_and_grad", exhausted)
    with pytest.raises(MemoryError, match="^not enough memory on 'cpu'"):
        fitted.predict(X)
    with pytest.raises(MemoryError, match="^not enough memory on 'cpu'"):
        MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs").fit(X, Y[:, 0])


def test_it_is_said_once():
    with (
        pytest.raises(MemoryError) as raised,
        explain_device_errors(select("cpu"), NETWORK, "float32"),
        explain_device_errors(select("cpu"), NETWORK, "float32"),
    ):
        raise MemoryError
    assert str(raised.value).count(device_errors.OURS) == 1


def test_a_gpu_that_cannot_be_used_says_so_in_the_first_step():
    with (
        pytest.raises(RuntimeError, match="is a GPU that this build does not serve"),
        explain_device_errors(select("cpu"), NETWORK, "float32"),
    ):
        raise CUDARuntimeError("cudaErrorNoKernelImageForDevice: no kernel image is available")


# Arithmetic


def test_bytes_are_counted_from_the_layout():
    network = Network(4, (Dense(8), Residual((Dense(6), Dense(8))), Dense(2)))
    params, example = needs(network, "float32")
    assert params == 4 * 4 * layout(network).size
    assert example == 4 * (4 + 4 * (8 + 6 + 8 + 8 + 2))
    assert needs(network, "float64", members=3) == (6 * params, 6 * example)


@pytest.mark.parametrize(
    ("room", "batch_size", "fits"),
    [(1000, 4096, 64), (1000, 64, 32), (1000, 33, 32), (1000, 1, 0), (9, 64, 0), (-5, 64, 0)],
)
def test_the_batch_that_fits_is_smaller_than_the_one_that_did_not(room, batch_size, fits):
    assert batch_that_fits(room, 10, batch_size) == fits


@pytest.mark.parametrize(
    ("n", "text"), [(512, "0.5 KiB"), (3 * 2**20, "3.0 MiB"), (2**31, "2.0 GiB")]
)
def test_sizes_as_people_read_them(n, text):
    assert size(n) == text
