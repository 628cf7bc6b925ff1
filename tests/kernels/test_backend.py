"""One backend a library: the definition on request, which kernels run, and why not others."""

import logging
import os
import re
import subprocess
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import nnaccel
from nnaccel.kernels.backend import BACKENDS, backend_of
from nnaccel.kernels.definition import Definition, Run
from nnaccel.maths import losses, optimizers
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.network import l2_penalty, mlp, value_and_grad
from nnaccel.maths.optimizers import adam_update
from nnaccel.training.loop import train
from tests.conftest import named

PACKAGE = Path(nnaccel.__file__).parent
NUMBA = pytest.mark.skipif(not find_spec("numba"), reason="needs Numba")
SOFTMAX = "softmax_cross_entropy"


def blobs(N=50, D=4, K=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)).astype(np.float32), rng.integers(0, K, N)


def run_of(network, loss=SOFTMAX, optimizer="adam", **options):
    rule = optimizers.get(optimizer, 0.01)
    return Run(network, losses.get(loss), rule, 16, np.dtype("float32"), **options)


def test_only_the_backend_reads_a_librarys_name():
    """Devices know libraries by their names, too: they are what a user writes."""
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(xp|namespace|library)\.__name__|\.library (==|in|!=)", path.read_text())
    }
    readers = {path for path in readers if not path.startswith("devices/")}
    assert readers == {"kernels/backend.py", "ops.py"}  # which only shows it


def test_a_library_without_a_backend_has_the_definition():
    xp = pytest.importorskip("array_api_strict")
    assert backend_of(xp) == Definition(xp)


@pytest.mark.parametrize("kernels", [None, "numba", 2, "False"])
def test_what_kernels_may_be(kernels):
    X, Y = blobs()
    with pytest.raises(ValueError, match='kernels must be True, False or "numpy", got'):
        train(mlp(4, [5], 3), X, Y, loss=SOFTMAX, kernels=kernels)


def calls(function):
    """How often the code of each definition is called meanwhile: where a breakpoint would stop."""
    names = {f.__code__: f.__name__ for f in (dense, dense_vjp, value_and_grad, adam_update)}
    counts = dict.fromkeys(names.values(), 0)

    def count(frame, event, _):
        if event == "call" and frame.f_code in names:
            counts[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counts


@pytest.mark.parametrize("library", ["cpu", "torch:cpu", "jax:cpu"])
def test_without_kernels_a_breakpoint_stops_in_every_step(library):
    named(library)
    X, Y = blobs()

    def run():
        list(train(mlp(4, [5], 3), X, Y, loss=SOFTMAX, epochs=2, batch_size=16, kernels=False,
                   device=library))  # fmt: skip

    steps = 2 * 4
    assert calls(run) == {
        "dense": 2 * steps, "dense_vjp": 2 * steps, "value_and_grad": steps, "adam_update": steps
    }  # fmt: skip


@pytest.mark.parametrize("library", ["cpu", "torch:cpu", "jax:cpu"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_without_kernels_it_is_the_same_run(library, precision):
    named(library)
    X, Y = blobs()
    options = {"loss": SOFTMAX, "epochs": 3, "batch_size": 16, "l2": 0.1, "precision": precision}
    network = mlp(4, [6, 5], 3, dropout=0.2)
    found, expected = (
        list(train(network, X, Y, device=library, kernels=kernels, **options))
        for kernels in (False, True)
    )
    for epoch, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(epoch.loss, reference.loss, rtol=1e-4)
    np.testing.assert_allclose(
        np.asarray(found[-1].params), np.asarray(expected[-1].params), rtol=1e-2, atol=1e-4
    )


def test_several_networks_and_resuming_without_kernels():
    X, Y = blobs()
    network = mlp(4, [5], 3)
    options = {"loss": SOFTMAX, "epochs": 3, "kernels": False}
    options["params"] = nnaccel.initialize(network, members=2)
    whole = list(train(network, X, Y, **options))
    first = next(iter(train(network, X, Y, **options))).copy()
    rest = list(train(network, X, Y, after=first, **options))
    np.testing.assert_array_equal(rest[-1].params, whole[-1].params)


def test_an_environment_variable_switches_kernels_off():
    code = (
        "import numpy as np; from nnaccel.kernels.backend import backend_of;"
        "print(backend_of(np).operations())"
    )
    command = [sys.executable, "-c", code]
    cases = {"0": "Ops(numpy, the definition)", "1": "Ops(numpy, kernels of"}
    for value, expected in cases.items():
        environment = {**os.environ, "NNACCEL_KERNELS": value}
        said = subprocess.check_output(command, text=True, env=environment)
        assert said.startswith(expected)


def test_operations_say_which_kernels_they_are():
    assert repr(backend_of(np, False).operations()) == "Ops(numpy, the definition)"
    said = repr(backend_of(np, "numpy").operations())
    assert said.startswith("Ops(numpy, kernels of NumPy: views, flatten, minibatch, dense,")
    ops = backend_of(np, "numpy").operations()
    ops[l2_penalty], ops[losses.huber]
    assert "huber" not in repr(ops)  # it runs by its definition


def unknown(Z, *, xp):
    return 2.0 * Z


def unknown_vjp(dA, Z, A, *, xp):
    return 2.0 * dA


OTHER = nnaccel.Activation("other", unknown, unknown_vjp)


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        (mlp(4, [5], 3), {}, "NumPy, a list of calls; not Numba: left out, since a short run"),
        (mlp(4, [5], 3), {"loss": "huber"}, "not a list of calls: it has no loss huber"),
        (mlp(4, [5], 3), {"optimizer": "gd"}, "not a list of calls: the optimizer is not Adam"),
        (mlp(4, [5], 3, activation=OTHER), {}, "not a list of calls: it has no activation other"),
        (mlp(4, [5], 3, dropout=0.1), {}, "not a list of calls: it has no layer Dropout"),
        (mlp(4, [5], 3), {"precision": "bf16"}, "calls: its products are float32, not bf16"),
        (mlp(800, [90], 3), {}, "not a list of calls: the network or its minibatch is too large"),
        (mlp(800, [900], 3), {"optimizer": "adam"}, "large enough for several threads"),
    ],
)
def test_a_run_says_why_a_faster_epoch_does_not_run_it(network, options, said):
    explained = backend_of(np, "numpy").explain(run_of(network, **options))
    assert said in explained
    assert explained.startswith(("NumPy, a list of calls", "steps, kernels of NumPy"))


@NUMBA
def test_numba_says_its_threads_and_its_blas():
    explained = backend_of(np).explain(run_of(mlp(4, [5], 3)))
    assert re.fullmatch(r"Numba, 1 thread, products by \w+", explained)
    large = run_of(mlp(784, [2048, 2048], 10))._replace(batch_size=512)
    assert re.match(r"Numba, \d+ threads?, products by", backend_of(np).explain(large))


@pytest.mark.parametrize(
    ("library", "kernels", "said"),
    [
        ("cpu", "numpy", "epoch: NumPy, a list of calls; not Numba: left out"),
        ("cpu", False, "epoch: step by step, the definition"),
        ("torch:cpu", True, "epoch: step by step, kernels of PyTorch"),
        ("jax:cpu", True, "epoch: JAX, one compiled scan, kernels of JAX"),
        ("jax:cpu", False, "epoch: step by step, the definition"),
    ],
)
def test_a_run_says_once_which_kernels_it_takes(library, kernels, said, caplog):
    named(library)
    X, Y = blobs()
    with caplog.at_level(logging.DEBUG, logger="nnaccel"):
        list(train(mlp(4, [3], 3), X, Y, loss=SOFTMAX, epochs=3, device=library, kernels=kernels))
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch:")]
    assert len(lines) == 1
    assert lines[0].startswith(said)


def test_types_that_only_the_arrays_show_change_the_line(caplog):
    """Integer targets of shape (N, 1), which no fused epoch takes for classes of cross-entropy."""
    X, _ = blobs()
    Y = np.eye(3)[np.zeros(len(X), int)]
    network = mlp(4, [5], 3)
    with caplog.at_level(logging.DEBUG, logger="nnaccel"):
        list(train(network, X.astype("float64"), Y, loss=SOFTMAX, dtype="float32", epochs=1,
                   kernels="numpy"))  # fmt: skip
    assert "epoch: NumPy, a list of calls" in caplog.text


@pytest.mark.parametrize("kernels", ["numpy", False])
def test_a_traceback_of_a_step_names_every_frame(kernels):
    def fails(Z, Y, weights=None, *, xp):
        raise ZeroDivisionError("on purpose")

    loss = losses.get("squared_error")._replace(name="fails", function=fails)
    X, Y = blobs()
    Y = np.eye(3)[Y]
    with pytest.raises(ZeroDivisionError) as raised:
        list(train(mlp(4, [5], 3), X, Y, loss=loss, kernels=kernels))
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    names = [name for name in names if name.startswith(("epoch", "step"))]
    assert len(names) == len(set(names)) > 1
    assert "epoch" not in names


def test_backends_exist_and_have_the_protocol():
    for library, (module, name) in BACKENDS.items():
        root = {"jax.numpy": "jax"}.get(library, library)
        if root == "cupy" or not find_spec(root):
            continue
        backend = getattr(__import__(module, fromlist=[name]), name)(ModuleType("xp"))
        assert isinstance(backend, Definition)
