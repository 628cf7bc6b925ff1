"""One row is enough: a fresh row of each table works everywhere, without another line.

What is registered here says no more than its row must: everything else has defaults.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest

from nnaccel.devices.device import to_host
from nnaccel.kernels.definition import Run
from nnaccel.maths import activations, initializers, layers, losses, optimizers, schedules
from nnaccel.maths.activations import Activation
from nnaccel.maths.layers import Dense, Dropout, Param
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, mlp
from nnaccel.maths.optimizers import Row, State
from nnaccel.ops import Ops
from nnaccel.training import model_file
from nnaccel.training.data import Data
from nnaccel.training.gradcheck import catalogue, check_gradients
from nnaccel.training.loop import train
from nnaccel.training.step import initialize, make_step, order_of
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host

D, K, N, BATCH, EPOCHS = 4, 2, 50, 16, 3

# Fresh rows


def bent(Z, *, xp):
    """g(Z) = (sqrt(Z^2 + 1) - 1) / 2 + Z."""
    return 0.5 * (xp.sqrt(Z * Z + 1.0) - 1.0) + Z


def bent_vjp(dA, Z, A, *, xp):
    return dA * (0.5 * Z / xp.sqrt(Z * Z + 1.0) + 1.0)


def log_cosh(Z, Y, weights=None, *, xp):
    """Mean of sum log cosh(Z - Y)."""
    R = Z - Y
    size = xp.abs(R)
    each = xp.sum(size + xp.log1p(xp.exp(-2.0 * size)) - np.log(2.0), axis=-1)
    return losses.average(each, xp.tanh(R), weights, xp=xp)


def heavy_ball(params, grads, velocity, rate, *, xp):
    velocity = 0.5 * velocity + grads
    return params - rate * velocity, velocity


def fresh_optimizer(learning_rate, *, weight_decay=0.0):
    schedule = learning_rate if callable(learning_rate) else schedules.constant(learning_rate)

    def init(params, *, xp):
        step = xp.zeros((), dtype=xp.int32, device=getattr(params, "device", None))
        return State(step, (xp.zeros_like(params),))

    def update(grads, state, params, *, ops, n_weights):
        rate = schedule(ops.xp.astype(state.step, params.dtype), xp=ops.xp)
        params, velocity = ops[heavy_ball](params, grads, *state.slots, rate)
        return params, State(state.step + 1, (velocity,))

    return optimizers.Optimizer(init, update)


def root(rate, steps):
    return lambda step, *, xp: rate / xp.sqrt(1.0 + step)


def tiny(shape, rng):
    return rng.uniform(-0.1, 0.1, shape)


def scale(X, gain, *, xp):
    return X * gain


def scale_vjp(dA, X, gain, *, xp):
    return dA * gain, xp.sum(dA * X, axis=-2, keepdims=True)


@dataclass(frozen=True)
class Scale:
    """X times a gain for each unit."""

    first: float = 0.5

    def width(self, D):
        return D

    def params(self, D):
        return (Param((1, D), lambda shape, rng: np.full(shape, self.first), decays=False),)

    def forward(self, params, X, *, ops, key, training=False):
        return ops[scale](X, *params), X

    def backward(self, params, saved, dA, *, ops, need_dX):
        dX, dgain = ops[scale_vjp](dA, saved, *params)
        return dX, (dgain,)


TABLES: dict[str, tuple[Any, Any]] = {
    "activation": (activations.ACTIVATIONS, Activation("fresh", bent, bent_vjp)),
    "loss": (losses.LOSSES, Loss("fresh", log_cosh)),
    "optimizer": (optimizers.OPTIMIZERS, Row(fresh_optimizer)),
    "schedule": (schedules.SCHEDULES, root),
    "initializer": (initializers.INITIALIZERS, tiny),
    "layer": (layers.LAYERS, Scale),
}


class Fresh(NamedTuple):
    """A network, a loss and an optimizer with a fresh row in one of them."""

    kind: str
    network: Network
    loss: Loss
    optimizer: optimizers.Optimizer


@pytest.fixture(params=TABLES)
def fresh(request, monkeypatch):
    kind = request.param
    table, row = TABLES[kind]
    monkeypatch.setitem(table, "fresh", row)
    names = {"activation": "tanh", "initializer": "auto"}
    network = mlp(D, [6, 5], K, **{k: "fresh" if k == kind else v for k, v in names.items()})
    if kind == "layer":
        network = Network(D, (Dense(6), Scale(), Dropout(0.2), Dense(K)))
    rate = schedules.get("fresh", 0.01, 12) if kind == "schedule" else 0.01
    return Fresh(
        kind,
        network,
        losses.get("fresh" if kind == "loss" else "squared_error"),
        optimizers.get("fresh" if kind == "optimizer" else "adam", rate),
    )


def examples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)), rng.standard_normal((N, K))


def step_by_step(fresh, ops):
    """The parameters after some epochs, a step at a time."""
    data = Data(*examples())
    run = Run(fresh.network, fresh.loss, fresh.optimizer, BATCH, np.float64)
    step = make_step(run, ops)
    params = initialize(fresh.network)
    state = fresh.optimizer.init(params, xp=np)
    for epoch in range(1, EPOCHS + 1):
        order = order_of(N, 0, epoch)
        for start in range(0, N, BATCH):
            params, state, _ = step(params, state, data, order[start : start + BATCH])
    return params


def trained(fresh, device, **options):
    X, Y = examples()
    epochs = train(
        fresh.network, X, Y, loss=fresh.loss, optimizer=fresh.optimizer, metric=None, device=device,
        batch_size=BATCH, epochs=EPOCHS, **options,
    )  # fmt: skip
    *_, last = epochs
    return to_host(last.params)


def on_numba(fresh):
    if not find_spec("numba"):
        pytest.skip("needs Numba")
    return trained(fresh, "cpu")


def on_cuda(fresh):
    if not cuda_on_host.COMPILER:
        pytest.skip(cuda_on_host.NO_COMPILER)
    return step_by_step(fresh, Ops(np, cuda_on_host.on_host().kernels(np)))


SETS = {
    "numpy": lambda fresh: trained(fresh, "cpu", kernels="numpy"),
    "numba": on_numba,
    "torch": lambda fresh: trained(fresh, named("torch:cpu")),
    "jax": lambda fresh: trained(fresh, named("jax:cpu")),
    "cuda on the host": on_cuda,
}


@pytest.mark.parametrize("name", SETS)
def test_it_trains_as_it_is_defined_with_every_set_of_kernels(fresh, name):
    expected = step_by_step(fresh, Ops(np))
    found = SETS[name](fresh)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert np.abs(found - initialize(fresh.network)).max() > 1e-3


def test_it_is_in_a_model_file(fresh, tmp_path):
    model_file.save(tmp_path / "m", fresh.network, initialize(fresh.network), loss=fresh.loss)
    found = model_file.load(tmp_path / "m")
    assert found.network == fresh.network
    assert found.loss == fresh.loss


def test_it_passes_the_gradient_check(fresh):
    X, Y = examples()
    assert check_gradients(fresh.network, X, Y, loss=fresh.loss).passed
    if fresh.kind in ("activation", "loss", "layer"):
        assert dict(catalogue(named("cpu")))[f"{fresh.kind} fresh"].passed


TABULAR = pytest.mark.skipif(
    not (find_spec("pyarrow") and find_spec("rich")), reason="needs the extra [cli]"
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, Y = examples()
    rows = [",".join(map(str, [*x, y[0]])) for x, y in zip(X, Y, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,y", *rows]))
    return "t.csv"


@TABULAR
def test_a_table_model_takes_it_by_name(fresh, file, tmp_path):
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.settings import Settings
    from nnaccel.tabular.sources import read

    if fresh.kind == "layer":
        pytest.skip("settings name no layer")
    value = ("fresh",) if fresh.kind == "activation" else "fresh"
    settings = Settings(hidden=(6,), epochs=2, **{fresh.kind: value})
    fit = Fit(read(file, "y"), settings)
    first, *_ = list(fit)
    assert np.isfinite(first.metric)
    model = fit.model()
    model.save(tmp_path / "m")
    X = read(file, "y").data
    np.testing.assert_array_equal(Model.load(tmp_path / "m").predict(X), model.predict(X))


@TABULAR
def test_the_command_line_takes_it_by_name(fresh, file, capsys):
    from nnaccel.cli.main import main

    if fresh.kind == "layer":
        pytest.skip("the command line names no layer")
    option = f"--{fresh.kind}"
    quick = ["--target", "y", "--hidden", "6", "--epochs", "2"]
    assert main(["train", file, *quick, option, "fresh"]) == 0
    for command in (["inspect", "t.safetensors"], ["evaluate", "t.safetensors", file]):
        assert main(command) == 0
    assert main(["train", "--help"]) == 0
    assert "fresh" in capsys.readouterr().out
    assert main(["train", file, *quick, option, "frehs"]) != 0
    assert "did you mean 'fresh'?" in capsys.readouterr().err


def test_an_optimizer_may_compute_without_a_rule():
    """`update` with `ops.xp` alone, for which no kernel can stand: the run goes step by step."""

    def update(grads, state, params, *, ops, n_weights):
        return params - 0.5 * ops.xp.sign(grads), State(state.step + 1, ())

    def init(params, *, xp):
        return State(xp.zeros((), dtype=xp.int32), ())

    signs = optimizers.Optimizer(init, update)
    network, X, y = mlp(1, [], 1), np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]])
    [epoch] = train(
        network, X, y, loss="squared_error", optimizer=signs, epochs=1, params=np.zeros(2)
    )
    np.testing.assert_array_equal(epoch.params, [0.5, 0.5])  # w and b, whose slopes are negative
