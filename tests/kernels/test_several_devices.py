"""Several devices of JAX as one: the same run as on a single one, each step shared out.

A process has as many devices as it is told when it starts, so they are in a process of their own.
"""

import json
import os
import re
import subprocess
import sys
from functools import partial
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("jax", reason="several devices are JAX's")

from nnaccel.devices.device import Device, device_of, select

ROWS, BATCH = 90, 16  # the last batch has ten rows


def problems():
    """The runs to compare, by name."""
    import nnaccel as nn
    from nnaccel.maths.layers import BatchNorm, Dense, Dropout, PiecewiseLinear

    layers = Dense(6, "tanh"), BatchNorm(), Dropout(0.2), Dense(2)
    network = nn.Network(3, layers)
    encoded = nn.Network(3, (PiecewiseLinear(((-1.0, 0.0, 1.0), (), (-2.0, 0.5, 2.0))), *layers))
    rng = np.random.default_rng(0)
    X, Y, weights = rng.standard_normal((ROWS, 3)), rng.integers(0, 2, ROWS), rng.random(ROWS)
    adam = nn.optimizers.adam(0.05)
    common = {"loss": "softmax_cross_entropy", "batch_size": BATCH, "metric": "accuracy"}
    common |= {"validation_data": (X[:20], Y[:20]), "epochs": 3, "optimizer": adam}
    found = {
        name: (network, common | {"optimizer": nn.optimizers.get(name, 0.05)})
        for name in nn.optimizers.OPTIMIZERS
    }
    found |= {
        "weights": (network, common | {"sample_weight": weights}),
        "l2": (network, common | {"l2": 0.1}),
        "clipped": (network, common | {"optimizer": nn.optimizers.clipped(adam, 0.1)}),
        "encoded": (encoded, common),
        "members": (network, common | {"params": nn.initialize(network, members=3),
                                       "validation_data": None}),
        "one row": (network, common | {"batch_size": 89}),
        "bytes": (network, common | {"dtype": "float64"}),
    }  # fmt: skip
    return found, X, Y


def differences(names=()):
    """How far parameters and scores on all devices are from those on the first one.

    names: of the problems; () all."""
    import jax

    import nnaccel as nn

    jax.config.update("jax_enable_x64", True)
    found, X, Y = problems()
    result = {"devices": select("jax:cpu:*").name, "n": len(jax.devices())}
    for name in names or found:
        network, options = found[name]
        rows = np.round(40 * X).astype(np.int8) if name == "bytes" else X
        ends = []
        for device in ("jax:cpu:0", "jax:cpu:*"):
            stopping = nn.EarlyStopping(3, monitor="loss")
            *_, last = stopping(nn.train(network, rows, Y, device=device, **options))
            scores = [np.ravel(value) for value in last.scores().values()]
            ends.append([nn.to_host(last.params).ravel(), nn.to_host(stopping.best.params).ravel(),
                         *scores])  # fmt: skip
        result[name] = max(np.abs(a - b).max() for a, b in zip(*ends, strict=True))
        if name == "adam":
            P = nn.predict(network, last.params, X, loss="softmax_cross_entropy")
            result["predictions"] = [device_of(last.params).name, device_of(P).name, *P.shape]
    return result


def differences_of_slices():
    """The same of rows of which each device gets its slice of each minibatch: those of a data set
    that does not fit on a device, and those of a file."""
    import jax

    import nnaccel as nn
    from nnaccel.training.on_disk import DiskArray

    jax.config.update("jax_enable_x64", True)
    found, X, Y = problems()
    weights = 2 * np.arange(ROWS) / (ROWS - 1)
    result = {}
    with TemporaryDirectory() as folder:

        def on_disk(name, array):
            path = os.path.join(folder, name)
            array.tofile(path)
            return DiskArray(path, 0, array.shape, array.dtype, regions=3)

        disk = [on_disk(n, a) for n, a in {"X": X, "Y": Y.astype("i4"), "w": weights}.items()]
        for name, batch_size, data in (
            ("host, uneven", 17, (X, Y, weights)),
            ("disk", 16, disk),
            ("disk, uneven", 17, [*disk[:2], None]),
            ("disk, one row", 89, disk),
            ("disk, steps of the definition", 60, disk),
        ):
            network, options = found["adam"]
            options = options | {"batch_size": batch_size, "sample_weight": data[2]}
            options |= {"kernels": "definition" not in name, "epochs": 2, "metric": None}
            options["validation_data"] = None
            free = 1 if data[0] is X else None
            with patch.object(Device, "memory_free", lambda self, free=free: free):
                ends = [
                    [epoch.copy() for epoch in nn.train(network, *data[:2], device=d, **options)]
                    for d in ("jax:cpu:0", "jax:cpu:*")
                ]
                again = nn.train(network, *data[:2], device="jax:cpu:*", **options,
                                 after=ends[1][0])  # fmt: skip
                again = [epoch.copy() for epoch in again][-1]
            one, several = (nn.to_host(epochs[-1].params) for epochs in ends)
            result[name] = [np.abs(one - several).max(), abs(ends[0][-1].loss - ends[1][-1].loss)]
            result[name] += [np.abs(nn.to_host(again.params) - several).max()]
    return result


def program(sliced):
    """The compiled epoch on all devices, as XLA writes it.   sliced: whether each has its rows."""
    from nnaccel.kernels.backend import backend_of
    from nnaccel.kernels.definition import Run
    from nnaccel.maths import losses, optimizers
    from nnaccel.maths.network import layout, mlp
    from nnaccel.training.data import Data
    from nnaccel.training.step import initialize, make_step

    where, network = select("jax:cpu:*"), mlp(20, [48, 40], 3)
    run = Run(network, losses.get("softmax_cross_entropy"), optimizers.adam(0.1), 32, "float32")
    backend = backend_of(where.xp)
    ops = backend.operations()
    with where.context():
        params = where.asarray(initialize(network), "float32")
        state = run.optimizer.init(params, xp=where.xp)
        split = backend.split_params(layout(network))
        X, Y = np.zeros((64, 20), "f"), np.zeros(64, "i4")
        if sliced:
            data = Data(*(where.in_slices(dict.fromkeys(range(4), a[:16])) for a in (X, Y)))
        else:
            data = Data(where.asarray(X), where.asarray(Y))
        epoch = backend.compile_epoch(partial(make_step, ops=ops), run, ops)(0)
        args = split(params), split(state), data, where.asarray(np.arange(64))
        return epoch.func.lower(*args, **epoch.keywords).compile().as_text()


def on_devices(n, call, *args):
    """What a function of this file gives in a process with that many devices."""
    code = (
        "import json; from tests.kernels import test_several_devices as t; "
        f"print('\\n' + json.dumps(t.{call}(*{args!r})))"
    )
    flags = f"--xla_force_host_platform_device_count={n}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("n", "names"), [(2, ("adam", "one row")), (4, ())])
def test_runs_on_several_devices_are_those_on_one(n, names):
    found = on_devices(n, "differences", names)
    assert found.pop("devices") == "jax:cpu:*"
    assert found.pop("n") == n
    assert found.pop("predictions") == ["jax:cpu:*", "jax:cpu:*", ROWS, 2]
    assert len(found) >= (len(names) or 14)
    assert {name: value for name, value in found.items() if value > 1e-13} == {}


def test_slices_on_several_devices_give_the_run_on_one():
    """An odd last batch, a batch that the devices do not divide; and the run goes on in bits."""
    found = on_devices(4, "differences_of_slices")
    assert len(found) == 5
    assert {name: far for name, far in found.items() if max(far[:2]) > 1e-13 or far[2]} == {}


@pytest.mark.parametrize("sliced", [False, True])
def test_a_step_has_its_share_of_the_rows_and_adds_up_gradients_once(sliced):
    text = on_devices(4, "program", sliced)
    shapes = re.findall(r"f32\[(\d+),(?:48|40)\]\S* dot\(", text)
    assert "8" in shapes  # of 32 rows, on each of four devices
    assert "32" not in shapes
    assert len(re.findall(r" all-reduce\(", text)) <= 2  # the gradients, and the loss
    assert not re.findall(r" (?:all-gather|all-to-all|collective-permute)\(", text)


def test_names_of_several_devices():
    device = select("jax:*")  # one is itself
    assert device.name == select("jax").name
    for name in ("cpu:*", "cuda:*", "torch:*", "torch:cuda:*"):
        with pytest.raises(ValueError, match="several devices are JAX's alone|device must be one"):
            select(name)
