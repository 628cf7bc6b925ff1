"""Batch normalisation: its equations, PyTorch's over many steps, and its state in every kind of
run."""

import math
from importlib.util import find_spec

import numpy as np
import pytest

from nnaccel.devices.device import to_host
from nnaccel.kernels.backend import backend_of
from nnaccel.kernels.definition import Run
from nnaccel.maths import losses, optimizers
from nnaccel.maths.activations import get
from nnaccel.maths.gradient_check import check_gradients
from nnaccel.maths.layers import BatchNorm, Dense, Dropout, Residual
from nnaccel.maths.layers.batch_norm import batch_norm_vjp
from nnaccel.maths.network import Network, forward, layout, value_and_grad
from nnaccel.ops import Ops
from nnaccel.training import model_file
from nnaccel.training.data import Data
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize, make_step, order_of
from tests.conftest import named
from tests.kernels.cuda import cuda_on_host

D, H, K, N, BATCH = 4, 5, 3, 50, 16
NETWORK = Network(
    D,
    (
        BatchNorm(),
        Dense(H, get("tanh")),
        Residual((Dense(H, get("tanh")), BatchNorm(1e-3, 0.3), Dropout(0.2))),
        Dense(K),
    ),
)
PLAIN = Network(D, (Dense(H, get("tanh")), BatchNorm(), Dense(K)))
LOSS = losses.get("softmax_cross_entropy")


KERNELS = {"definitions": Ops, "kernels": lambda xp: backend_of(xp).operations()}
OPS = pytest.mark.parametrize("make_ops", KERNELS.values(), ids=KERNELS)


def examples(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(3.0, 2.0, (N, D))
    return X, (X[:, 0] > 3).astype(int) + (X[:, 1] > 3)


def state_of(params, network=NETWORK):
    return to_host(params)[..., layout(network).n_trained :]


# The equations


def test_worked_by_hand():
    X = np.array([[1.0], [5.0]])  # mean 3, variance 4 over the batch and 8 of the population
    params = tuple(np.array([[x]]) for x in (2.0, 1.0, 0.5, 1.0))
    layer = BatchNorm(epsilon=1e-9, momentum=0.25)
    A, saved = layer.forward(params, X, ops=Ops(np), key=None, training=True)
    np.testing.assert_allclose(A, [[-1.0], [3.0]], rtol=1e-8)
    dA = np.array([[1.0], [2.0]])
    dX, grads = layer.backward(params, saved, dA, ops=Ops(np), need_dX=True)
    np.testing.assert_allclose(dX, [[0.0], [0.0]], atol=1e-8)  # two examples are always -1 and 1
    expected = (1.0, 3.0, 0.75 * 0.5 + 0.25 * 3.0, 0.75 * 1.0 + 0.25 * 8.0)
    np.testing.assert_allclose(np.ravel(grads), expected, rtol=1e-8)
    A, _ = layer.forward(params, X, ops=Ops(np), key=None)
    np.testing.assert_allclose(A, 2.0 * (X - 0.5) + 1.0, rtol=1e-8)


def test_one_example_has_the_variance_zero():
    params = tuple(np.array([[x]]) for x in (2.0, 1.0, 0.0, 1.0))
    A, saved = BatchNorm().forward(params, np.array([[7.0]]), ops=Ops(np), key=None, training=True)
    assert A.tolist() == [[1.0]]
    dX, (dgain, dbias, mean, variance) = BatchNorm().backward(
        params, saved, np.ones((1, 1)), ops=Ops(np), need_dX=True
    )
    assert [float(x[0, 0]) for x in (dX, dgain, dbias)] == [0.0, 0.0, 1.0]
    assert [float(mean[0, 0]), float(variance[0, 0])] == pytest.approx([0.7, 0.9])


@OPS
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_torch_takes_the_same_steps(make_ops, momentum):
    """The network, its running statistics and its predictions, over 60 batches of two sizes."""
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    nn = torch.nn
    network = PLAIN
    model = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.BatchNorm1d(H), nn.Linear(H, K)).double()
    params, places = initialize(network), layout(network)
    parts = np.split(params[: places.n_trained], np.cumsum([D * H, H * K, H, H, H]))
    W1, W2, b1, gain, bias, b2 = (torch.tensor(part) for part in parts)
    with torch.no_grad():
        for mine, theirs in zip(
            (W1.reshape(D, H).T, b1, gain, bias, W2.reshape(H, K).T, b2),
            model.parameters(),
            strict=True,
        ):
            theirs.copy_(mine)
    rule = optimizers.momentum(0.1, beta=momentum)
    twin = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    run = Run(network, LOSS, rule, 16, params.dtype, short_batch="full")
    step = make_step(run, make_ops(np))
    state, (X, Y) = rule.init(params, xp=np), examples()
    for i in range(60):
        index = np.arange(i, i + (16 if i % 3 else 7)) % N
        params, state, value = step(params, state, Data(X, Y), index)
        expected = nn.functional.cross_entropy(
            model(torch.tensor(X[index])), torch.tensor(Y[index])
        )
        twin.zero_grad()
        expected.backward()
        twin.step()
        assert float(value) == pytest.approx(expected.item(), rel=1e-9)
    running = torch.cat([model[2].running_mean, model[2].running_var]).numpy()
    np.testing.assert_allclose(state_of(params, network), running, rtol=1e-9)
    assert np.abs(running - np.repeat([0.0, 1.0], H)).max() > 0.05
    model.eval()
    logits = model(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(predict(network, params, X), logits, rtol=1e-8, atol=1e-10)


# The gradient check looks at what is trained


def check(network, ops):
    rng, params = np.random.default_rng(0), initialize(network, 3)
    X, Y = examples()
    return check_gradients(network, LOSS, params, X, Y, ops=ops, rng=rng)


def test_the_gradient_check_passes_where_a_bias_has_no_gradient(monkeypatch):
    outcome = check(Network(D, (Dense(H), BatchNorm(), Dense(K))), Ops(np))
    assert outcome.passed
    assert len(outcome.shapes) == 6
    assert check(NETWORK, backend_of(np).operations()).passed


def test_a_wrong_derivative_is_rejected():
    ops = Ops(np)

    def wrong(*args):
        dX, dgain, dbias = batch_norm_vjp(*args, xp=np)
        return 1.001 * dX, dgain, dbias

    ops[batch_norm_vjp] = wrong
    assert not check(PLAIN, ops).passed


# State is at the end of the vector, and nobody trains it


def test_the_state_comes_last():
    places = layout(NETWORK)
    assert places.size - places.n_trained == 2 * D + 2 * H
    assert places.n_weights == D * H + H * H + H * K
    np.testing.assert_array_equal(
        state_of(initialize(NETWORK)), [0] * D + [1] * D + [0] * H + [1] * H
    )


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@OPS
def test_no_optimizer_decay_penalty_or_clipping_touches_the_state(name, make_ops):
    """After each step it is what the layers have said; clipping does not count it."""
    rule = optimizers.clipped(optimizers.get(name, 0.05, weight_decay=0.3), 0.1)
    step = make_step(Run(PLAIN, LOSS, rule, 16, np.float64, l2=0.2), make_ops(np))
    params, data = initialize(PLAIN), Data(*examples())
    state, n = rule.init(params, xp=np), layout(PLAIN).n_trained
    for i in range(5):
        index = np.arange(i, i + 16)
        expected = value_and_grad(
            PLAIN, LOSS, params + 0.0, data.X[index], data.Y[index], ops=Ops(np), l2=0.2
        )[1]
        trained = params[:n] + 0.0
        params, state, _ = step(params, state, data, index)
        np.testing.assert_allclose(params[n:], expected[n:], rtol=1e-12)
        assert not any(slot[n:].any() for slot in state.slots)
        if name == "gd" and i == 0:
            norm = np.linalg.norm(expected[:n])
            weights = np.arange(n) < layout(PLAIN).n_weights
            moved = trained * (1 - 0.05 * 0.3 * weights) - 0.05 * expected[:n] * min(1, 0.1 / norm)
            np.testing.assert_allclose(params[:n], moved, rtol=1e-12)


# Every kind of run


def options(**changes):
    return {
        "loss": LOSS, "optimizer": optimizers.adam(0.01, weight_decay=0.1), "l2": 0.01,
        "batch_size": BATCH, "epochs": 3, "seed": 4,
    } | changes  # fmt: skip


def run(X, Y, **changes):
    *_, last = train(NETWORK, X, Y, **options(**changes))
    return last


def step_by_step(ops):
    X, Y = examples()
    rule = options()["optimizer"]
    step = make_step(Run(NETWORK, LOSS, rule, 16, np.float64, l2=0.01, seed=4), ops)
    params = initialize(NETWORK, 4)
    state = rule.init(params, xp=np)
    for epoch in range(1, 4):
        order = order_of(N, 4, epoch)
        for start in range(0, N, BATCH):
            params, state, _ = step(params, state, Data(X, Y), order[start : start + BATCH])
    return params


def on_cuda():
    if not cuda_on_host.COMPILER:
        pytest.skip(cuda_on_host.NO_COMPILER)
    return step_by_step(Ops(np, cuda_on_host.on_host().kernels(np)))


RUNS = {
    "numpy": lambda: run(*examples(), device="cpu", kernels="numpy").params,
    "numba": lambda: run(*examples(), device="cpu").params,
    "torch": lambda: run(*examples(), device=named("torch:cpu")).params,
    "jax": lambda: run(*examples(), device=named("jax:cpu")).params,
    "cuda on the host": on_cuda,
}


@pytest.mark.parametrize("name", RUNS)
def test_every_library_takes_the_steps_of_the_definition(name):
    expected = step_by_step(Ops(np))
    np.testing.assert_allclose(to_host(RUNS[name]()), expected, rtol=1e-8, atol=1e-10)
    assert np.abs(state_of(expected) - state_of(initialize(NETWORK))).max() > 1.0


def test_large_networks_on_jax_are_in_parts(monkeypatch):
    pytest.importorskip("jax")
    from nnaccel.kernels import jax

    monkeypatch.setattr(jax, "SMALL", 0)
    # Another network than above, for which nothing is compiled yet.
    network = Network(D, (*NETWORK.layers[:2], Dense(7), *NETWORK.layers[3:]))
    X, Y = examples()
    found = [
        [epoch.params + 0.0 for epoch in train(network, X, Y, **options(device=device))][-1]
        for device in ("cpu", "jax:cpu")
    ]
    np.testing.assert_allclose(to_host(found[1]), found[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "jax:cpu"])
def test_K_networks_are_K_runs(device):
    """Without dropout, which draws through all of them."""
    starts, (X, Y) = initialize(PLAIN, 0, members=2), examples()
    together, *alone = (
        [
            epoch.params
            for epoch in train(PLAIN, X, Y, params=start, **options(device=named(device)))
        ]
        for start in (starts, *starts)
    )
    for k in range(2):
        np.testing.assert_allclose(
            to_host(together[-1])[k], to_host(alone[k][-1]), rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("device", ["cpu", "torch:cpu", "jax:cpu"])
def test_a_resumed_run_is_the_whole_one_in_bits(device):
    X, Y = examples()
    where = named(device)
    whole = to_host(run(X, Y, device=where, epochs=4).params)
    first = run(X, Y, device=where, epochs=2).copy()
    np.testing.assert_array_equal(
        to_host(run(X, Y, device=where, epochs=4, after=first).params), whole
    )


@pytest.mark.skipif(not find_spec("scipy"), reason="needs SciPy")
def test_streamed_rows_are_the_same_batches():
    from scipy.sparse import csr_matrix

    X, Y = examples()
    np.testing.assert_array_equal(run(csr_matrix(X), Y, dtype="float64").params, run(X, Y).params)


def test_lower_precision_is_of_the_products_alone():
    X, Y = (examples()[0].astype("float32"), examples()[1])
    whole, half = (run(X, Y, precision=name).params for name in ("float32", "bf16"))
    np.testing.assert_allclose(half, whole, atol=0.1)
    # The first layer sees the data before any product: its state is the same.
    np.testing.assert_allclose(state_of(half)[: 2 * D], state_of(whole)[: 2 * D], rtol=1e-6)


def test_predictions_and_validation_use_the_running_statistics(tmp_path):
    X, Y = examples()
    stopping = EarlyStopping(2)
    held_out = examples(1)
    for _ in stopping(train(NETWORK, X, Y, validation_data=held_out, **options(epochs=6))):
        pass
    best = stopping.best
    Z = predict(NETWORK, best.params, held_out[0])
    assert best.validation_loss == pytest.approx(float(LOSS.function(Z, held_out[1], xp=np)[0]))
    alone = [predict(NETWORK, best.params, held_out[0][i : i + 1]) for i in range(N)]
    np.testing.assert_allclose(np.concatenate(alone), Z, rtol=1e-10)
    trained = forward(NETWORK, best.params, held_out[0], ops=Ops(np), training=True)
    assert np.abs(trained - Z).max() > 1e-3
    model_file.save(tmp_path / "m", NETWORK, best.params, loss=LOSS)
    found = model_file.load(tmp_path / "m")
    np.testing.assert_array_equal(predict(found.network, found.params, held_out[0]), Z)


def test_a_run_that_diverges_says_so_though_every_unit_is_normalised():
    X, Y = examples()
    with pytest.raises(FloatingPointError, match="not finite"):
        run(np.where(X > 5, 1e300, X), Y)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_an_epsilon_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="epsilon of BatchNorm must be a positive finite"):
        BatchNorm(value)


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_a_momentum_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="momentum of BatchNorm must be a number from 0 to 1, got"):
        BatchNorm(momentum=value)
