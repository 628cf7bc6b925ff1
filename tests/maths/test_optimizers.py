"""Optimizers: hand-worked steps, PyTorch's over many steps, donation, and the leading axis."""

import math

import numpy as np
import pytest

from nnaccel.kernels.backend import backend_of
from nnaccel.maths import schedules
from nnaccel.maths.optimizers import (
    OPTIMIZERS,
    adam,
    adamw,
    clip_by_global_norm,
    clipped,
    get,
    gradient_descent,
    lion,
    momentum,
    nesterov,
    rmsprop,
    shrink_weights,
)
from nnaccel.ops import Ops

P, N_WEIGHTS = 12, 8

EVERY = pytest.mark.parametrize("name", OPTIMIZERS)
KERNELS = {"definitions": Ops, "kernels": lambda xp: backend_of(xp).operations()}
OPS = pytest.mark.parametrize("make_ops", KERNELS.values(), ids=KERNELS)

rng = np.random.default_rng(0)
TARGET, CURVATURE = rng.standard_normal(P), rng.uniform(0.5, 3.0, P)
NOISE = rng.standard_normal((200, P))


def start(lead=(), dtype="float64"):
    return np.random.default_rng(1).standard_normal((*lead, P)).astype(dtype)


def gradient(params, step):
    """That of a noisy bowl."""
    return CURVATURE * (params - TARGET) + NOISE[step]


def run(optimizer, params, steps, *, ops=None, n_weights=N_WEIGHTS, scale=1.0):
    """The parameters after so many steps, in NumPy."""
    ops = Ops(np) if ops is None else ops
    params = params.copy()
    state = optimizer.init(params, xp=np)
    for step in range(steps):
        grads = (scale * gradient(params, step)).astype(params.dtype)
        params, state = optimizer.update(grads, state, params, ops=ops, n_weights=n_weights)
    return params


def one_step(optimizer, params, grads, **options):
    params, grads = np.array(params), np.array(grads)
    state = optimizer.init(params, xp=np)
    options = {"ops": Ops(np), "n_weights": 1, **options}
    return optimizer.update(grads, state, params, **options)


# Steps worked by hand


def test_gradient_descent_subtracts_the_rate_times_the_gradient():
    params, state = one_step(gradient_descent(0.1), [1.0, 2.0], [10.0, -5.0])
    assert params.tolist() == [0.0, 2.5]
    assert state.slots == ()
    assert int(state.step) == 1


def test_momentum_goes_on_in_the_direction_of_the_last_step():
    optimizer, ops = momentum(0.1, beta=0.5), Ops(np)
    params, state = one_step(optimizer, [1.0], [2.0])
    assert params == pytest.approx([0.8])
    params, state = optimizer.update(np.zeros(1), state, params, ops=ops, n_weights=1)
    assert params == pytest.approx([0.7])
    params, _ = optimizer.update(np.zeros(1), state, params, ops=ops, n_weights=1)
    assert params == pytest.approx([0.65])


def test_nesterov_looks_ahead():
    params, _ = one_step(nesterov(0.1, beta=0.5), [1.0], [2.0])
    assert params == pytest.approx([1.0 - 0.2 - 0.5 * 0.2])


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    params, _ = one_step(rmsprop(0.1, beta=0.75, epsilon=0.0), [1.0, 1.0], [4.0, -0.001])
    assert params == pytest.approx([1.0 - 0.2, 1.0 + 0.2])


def test_lion_takes_the_sign_of_a_moment_that_it_does_not_keep():
    """c = b1 m + (1 - b1) g decides, and m moves by b2: worked by hand over three steps."""
    optimizer, ops = lion(0.5, beta_1=0.5, beta_2=0.75, weight_decay=0.2), Ops(np)
    params, state = one_step(optimizer, [1.0, 1.0], [8.0, -4.0], n_weights=1)
    # w1: 1 - 0.5 (1 + 0.2); b, which does not decay: 1 + 0.5
    assert params == pytest.approx([0.4, 1.5], rel=1e-15)
    assert state.slots[0].tolist() == [2.0, -1.0]
    # c = (1 - 0.5, -0.5 + 1.5): m still points the other way for the second
    params, state = optimizer.update(np.array([-1.0, 3.0]), state, params, ops=ops, n_weights=1)
    assert params == pytest.approx([0.4 - 0.5 * (1 + 0.2 * 0.4), 1.0], rel=1e-15)
    assert state.slots[0].tolist() == [1.25, 0.0]
    params, state = optimizer.update(np.array([-1.25, 0.0]), state, params, ops=ops, n_weights=1)
    assert params == pytest.approx([-0.14 * 0.9, 1.0], rel=1e-14)  # c = (0, 0)


@OPS
def test_lion_is_its_algorithm_written_out_for_each_number(make_ops):
    """Algorithm 2, a loop over steps and parameters."""
    rate, b1, b2, decay = 0.02, 0.9, 0.99, 0.3
    found = run(lion(rate, weight_decay=decay), start(), STEPS, ops=make_ops(np))
    w, m = start().tolist(), [0.0] * P
    for step in range(STEPS):
        g = gradient(np.asarray(w), step).tolist()
        for i in range(P):
            c = b1 * m[i] + (1 - b1) * g[i]
            sign = (c > 0) - (c < 0)
            w[i] = w[i] - rate * (sign + (decay * w[i] if i < N_WEIGHTS else 0.0))
            m[i] = b2 * m[i] + (1 - b2) * g[i]
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-13)


@OPS
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_first_step_of_adam_has_the_size_of_the_learning_rate(size, make_ops):
    params, _ = one_step(adam(0.01, epsilon=0.0), np.zeros(2), [size, -size], ops=make_ops(np))
    assert params == pytest.approx([-0.01, 0.01], rel=1e-12)


def test_without_a_second_moment_adam_is_momentum_of_signs():
    """beta_1 = 0: every step has the size of the learning rate for a constant gradient."""
    params = run(adam(0.01, beta_1=0.0, epsilon=0.0), start(), 1)
    for _ in range(3):
        moved, _ = one_step(adam(0.01, beta_1=0.0, epsilon=0.0), params, np.ones(P))
        np.testing.assert_allclose(moved, params - 0.01, rtol=1e-12)
        params = moved


@EVERY
def test_a_gradient_of_zero_moves_nothing_at_first(name):
    options = {"weight_decay": 0.0} if name == "adamw" else {}
    params, _ = one_step(get(name, 0.1, **options), [1.0, 2.0], [0.0, 0.0])
    assert params.tolist() == [1.0, 2.0]


@EVERY
@OPS
def test_weight_decay_shrinks_the_weights_by_the_rate_and_leaves_the_rest(name, make_ops):
    params, _ = one_step(
        get(name, 0.1, weight_decay=0.5),
        [1.0, 2.0, 3.0],
        np.zeros(3),
        n_weights=2,
        ops=make_ops(np),
    )
    assert params == pytest.approx([0.95, 1.9, 3.0])


def test_clipping_scales_long_gradients_and_leaves_short_ones(xp_device):
    grads = xp_device.asarray(np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]))
    found = xp_device.to_numpy(clip_by_global_norm(grads, 2.0, xp=xp_device.xp))
    np.testing.assert_allclose(found, [[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]], rtol=1e-15)


def test_shrinking_on_every_library(xp_device):
    params = xp_device.asarray(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    found = xp_device.to_numpy(shrink_weights(params, 0.1, 2, xp=xp_device.xp))
    np.testing.assert_allclose(found, [[0.9, 1.8, 3.0], [3.6, 4.5, 6.0]], rtol=1e-15)


@EVERY
def test_a_schedule_gives_the_rate_of_each_step(name):
    """Two steps at 0.1 and then none: what follows changes nothing but through momentum."""
    schedule = schedules.step(0.1, every=2, factor=1e-30)
    options = {"beta": 0.0} if name in ("momentum", "nesterov") else {}
    scheduled = run(get(name, schedule, **options), start(), 6)
    np.testing.assert_allclose(scheduled, run(get(name, 0.1, **options), start(), 2), rtol=1e-12)


# What holds for every one of them


@EVERY
def test_it_finds_the_bottom_of_a_bowl(name):
    optimizer = get(name, schedules.cosine(0.05, 2000), weight_decay=0.0)
    params, ops = start(), Ops(np)
    state = optimizer.init(params, xp=np)
    for _ in range(2000):
        grads = CURVATURE * (params - TARGET)
        params, state = optimizer.update(grads, state, params, ops=ops, n_weights=N_WEIGHTS)
    np.testing.assert_allclose(params, TARGET, atol=1e-3)
    assert int(state.step) == 2000


@EVERY
def test_state_is_arrays_that_start_at_zero(name, xp_device):
    params = xp_device.asarray(start(dtype="float32"))
    state = get(name, 0.1).init(params, xp=xp_device.xp)
    assert state.step.dtype == xp_device.xp.int32
    assert int(state.step) == 0
    for slot in state.slots:
        assert slot.dtype == params.dtype
        assert not xp_device.to_numpy(slot).any()


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_keeps_dtype_and_gives_the_same_numbers(name, dtype, xp_device):
    optimizer = clipped(get(name, schedules.cosine(0.1, 20), weight_decay=0.1), 1.5)
    expected = run(optimizer, start(dtype=dtype), 10)
    xp, ops = xp_device.xp, Ops(xp_device.xp)
    params = xp_device.asarray(start(dtype=dtype))
    state = optimizer.init(params, xp=xp)
    for step in range(10):
        grads = gradient(xp_device.to_numpy(params), step).astype(dtype)
        params, state = optimizer.update(
            xp_device.asarray(grads), state, params, ops=ops, n_weights=N_WEIGHTS
        )
        for array in (params, *state.slots):
            assert array.dtype == getattr(xp, dtype)
        assert state.step.dtype == xp.int32
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(xp_device.to_numpy(params), expected, rtol=tolerance, atol=tolerance)


@EVERY
@OPS
def test_rates_that_are_numpy_scalars_keep_float32(name, make_ops):
    """They come out of grids of hyper-parameters, and NumPy's float64 would promote."""
    options = {"weight_decay": np.float64(0.1)}
    if name in ("momentum", "nesterov", "rmsprop"):
        options["beta"] = np.float64(0.5)
    for rate in (np.float64(0.1), schedules.get("cosine", np.float64(0.1), 10)):
        params = run(get(name, rate, **options), start(dtype="float32"), 3, ops=make_ops(np))
        assert params.dtype == np.float32


@EVERY
@OPS
def test_K_stacked_vectors_are_K_runs(name, make_ops):
    optimizer = clipped(get(name, 0.05, weight_decay=0.1), 2.0)
    stacked = run(optimizer, start((3,)), 20, ops=make_ops(np))
    for k in range(3):
        alone = run(optimizer, start((3,))[k], 20, ops=make_ops(np))
        np.testing.assert_allclose(stacked[k], alone, rtol=1e-11, atol=1e-13)


@EVERY
@OPS
def test_each_of_K_runs_may_have_hyper_parameters_of_its_own(name, make_ops):
    def column(values):
        return np.array(values)[:, None]

    rates, decays, norms = [0.1, 0.03, 0.01], [0.0, 0.1, 0.5], [1.0, 2.0, 4.0]
    betas = [0.5, 0.9, 0.99] if name in ("momentum", "nesterov", "rmsprop") else None
    options = {} if betas is None else {"beta": column(betas)}
    together = clipped(
        get(name, column(rates), weight_decay=column(decays), **options), column(norms)
    )
    stacked = run(together, start((3,)), 20, ops=make_ops(np))
    for k in range(3):
        options = {} if betas is None else {"beta": betas[k]}
        alone = clipped(get(name, rates[k], weight_decay=decays[k], **options), norms[k])
        np.testing.assert_allclose(
            stacked[k], run(alone, start((3,))[k], 20, ops=make_ops(np)), rtol=1e-11, atol=1e-13
        )


@EVERY
@OPS
@pytest.mark.parametrize("lead", [(), (2,)], ids=["one", "stacked"])
def test_what_was_passed_in_may_be_destroyed(name, lead, make_ops):
    """After each update everything that was passed in and not returned is filled with NaN."""
    optimizer = clipped(get(name, 0.05, weight_decay=0.1), 2.0)
    expected = run(optimizer, start(lead), 10, ops=make_ops(np))
    params, ops = start(lead), make_ops(np)
    state = optimizer.init(params, xp=np)
    for step in range(10):
        passed = gradient(params, step), params, *state.slots
        params, state = optimizer.update(passed[0], state, params, ops=ops, n_weights=N_WEIGHTS)
        for array in passed:
            if not any(np.shares_memory(array, kept) for kept in (params, *state.slots)):
                array[...] = math.nan
    np.testing.assert_array_equal(params, expected)


@EVERY
def test_the_definitions_destroy_nothing(name, xp_device):
    """So that a state can be kept; kernels may be less careful."""
    optimizer = clipped(get(name, 0.05, weight_decay=0.1), 2.0)
    params = xp_device.asarray(start())
    state = optimizer.init(params, xp=xp_device.xp)
    grads = xp_device.asarray(gradient(start(), 0))
    optimizer.update(grads, state, params, ops=Ops(xp_device.xp), n_weights=N_WEIGHTS)
    np.testing.assert_array_equal(xp_device.to_numpy(params), start())
    np.testing.assert_array_equal(xp_device.to_numpy(grads), gradient(start(), 0))
    assert int(state.step) == 0
    assert not any(xp_device.to_numpy(slot).any() for slot in state.slots)


@EVERY
def test_a_step_can_be_traced(name):
    jax = pytest.importorskip("jax", reason="tracing is JAX's")
    optimizer = clipped(get(name, schedules.cosine(0.1, 20), weight_decay=0.1), 1.5)
    ops = Ops(jax.numpy)
    update = jax.jit(
        lambda grads, state, params: optimizer.update(
            grads, state, params, ops=ops, n_weights=N_WEIGHTS
        )
    )
    params = jax.numpy.asarray(start())
    state = optimizer.init(params, xp=jax.numpy)
    for step in range(5):
        params, state = update(jax.numpy.asarray(gradient(start(), step)), state, params)
    expected, expected_state = start(), optimizer.init(start(), xp=np)
    for step in range(5):
        expected, expected_state = optimizer.update(
            gradient(start(), step), expected_state, expected, ops=Ops(np), n_weights=N_WEIGHTS
        )
    np.testing.assert_allclose(params, expected, rtol=1e-11)


# Names


def test_a_name_is_looked_up_and_an_optimizer_is_taken_as_it_is():
    optimizer = adam(0.1)
    assert get(optimizer, 0.5) is optimizer
    with pytest.raises(ValueError, match="optimizer must be one of .*did you mean 'adamw'"):
        get("adamww", 0.1)
    with pytest.raises(TypeError, match="'gd' has no parameter 'beta'; it has weight_decay"):
        get("gd", 0.1, beta=0.9)


BAD_AMOUNTS = [-1.0, math.nan, math.inf]
BAD_SHARES = [-0.1, 1, 2.0, math.nan]


@pytest.mark.parametrize("wrong", BAD_AMOUNTS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_and_decays_out_of_range_are_refused(name, wrong):
    with pytest.raises(
        ValueError, match=f"learning_rate must be at least 0 and finite, got {wrong}"
    ):
        get(name, wrong)
    with pytest.raises(
        ValueError, match=f"weight_decay must be at least 0 and finite, got {wrong}"
    ):
        get(name, 1e-3, weight_decay=wrong)


@pytest.mark.parametrize(
    ("make", "option", "expected", "wrong"),
    [
        (momentum, "beta", "from 0 to 1", [-0.1, 2, math.nan]),
        (nesterov, "beta", "from 0 to 1", [-0.1, 2, math.nan]),
        (rmsprop, "beta", "at least 0 and below 1", BAD_SHARES),
        (rmsprop, "epsilon", "at least 0 and finite", BAD_AMOUNTS),
        (adam, "beta_1", "at least 0 and below 1", BAD_SHARES),
        (adam, "beta_2", "above 0 and below 1", [0, *BAD_SHARES]),
        (adamw, "beta_2", "above 0 and below 1", [0, *BAD_SHARES]),
        (adam, "epsilon", "at least 0 and finite", BAD_AMOUNTS),
        (lion, "beta_1", "at least 0 and below 1", BAD_SHARES),
        (lion, "beta_2", "at least 0 and below 1", BAD_SHARES),
    ],
)
def test_options_out_of_range_are_refused(make, option, expected, wrong):
    for value in (*wrong, np.asarray([0.5, wrong[-1]]), np.asarray([[wrong[0]], [0.5]])):
        with pytest.raises(ValueError, match=f"^{option} must be {expected}, got "):
            make(0.1, **{option: value})


@pytest.mark.parametrize("value", [-1.0, 0, math.nan, math.inf])
def test_norms_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=f"max_norm must be above 0 and finite, got {value}"):
        clipped(adam(0.1), value)


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(
        TypeError, match="learning_rate must be a number at least 0 and finite, got"
    ):
        adam(value)


def test_the_ends_of_the_ranges_are_in_them():
    for optimizer in (
        adam(0.0, beta_1=0.0, epsilon=0.0),
        momentum(0.1, beta=1.0),
        lion(0.1, beta_1=0, beta_2=0),
    ):
        params = run(optimizer, start(), 2)
        assert np.isfinite(params).all()


def test_an_optimizer_says_what_it_is():
    assert [get(name, 0.1).name for name in OPTIMIZERS] == [
        "gradient_descent", "momentum", "nesterov", "rmsprop", "adam", "adam", "lion"
    ]  # fmt: skip
    assert clipped(lion(0.1), 1.0).name == "lion"


def test_an_optimizer_says_for_how_many_networks_it_is():
    rates = np.asarray([0.1, 0.2, 0.3])
    for several in (
        adam(rates),
        adam(rates[:, None]),
        adam(schedules.cosine(rates, 10)),
        momentum(0.1, beta=rates),
        clipped(adam(0.1), rates),
        clipped(adam(rates), 1.0),
        adam(schedules.warm_up(schedules.constant(rates), 3)),
    ):
        assert several.members == 3
    assert adam(0.1).members is adam(np.asarray([[0.1]])).members is None
    with pytest.raises(ValueError, match="learning_rate is for 3 networks, but weight_decay for 2"):
        adam(rates, weight_decay=rates[:2])
    with pytest.raises(ValueError, match="optimizer is for 3 networks, but max_norm for 2"):
        clipped(adam(rates), rates[:2])


@EVERY
def test_values_in_a_row_are_values_in_a_column(name):
    rates, decays, norms = (np.asarray(x) for x in ([0.1, 0.03], [0.1, 0.5], [1.0, 2.0]))
    row = clipped(get(name, schedules.cosine(rates, 9), weight_decay=decays), norms)
    columns = (x[:, None] for x in (rates, decays, norms))
    rates, decays, norms = columns
    column = clipped(get(name, schedules.cosine(rates, 9), weight_decay=decays), norms)
    np.testing.assert_array_equal(run(row, start((2,)), 5), run(column, start((2,)), 5))


def test_the_table_holds_the_functions():
    assert OPTIMIZERS["gd"].make is gradient_descent
    assert OPTIMIZERS["adamw"].make is adamw


# PyTorch's optimizers

TWINS = {
    "gd": (gradient_descent(0.02), lambda o, p: o.SGD(p, lr=0.02)),
    "momentum": (momentum(0.02, beta=0.8), lambda o, p: o.SGD(p, lr=0.02, momentum=0.8)),
    "nesterov": (
        nesterov(0.02, beta=0.8),
        lambda o, p: o.SGD(p, lr=0.02, momentum=0.8, nesterov=True),
    ),
    "rmsprop": (
        rmsprop(0.02, beta=0.95, epsilon=1e-6),
        lambda o, p: o.RMSprop(p, lr=0.02, alpha=0.95, eps=1e-6),
    ),
    "adam": (
        adam(0.02, beta_1=0.8, beta_2=0.99, epsilon=1e-6),
        lambda o, p: o.Adam(p, lr=0.02, betas=(0.8, 0.99), eps=1e-6),
    ),
    "adam with its defaults": (adam(), lambda o, p: o.Adam(p)),
    "adamw": (adamw(0.02, weight_decay=0.3), lambda o, p: o.AdamW(p, lr=0.02)),
    "adamw with its defaults": (adamw(), lambda o, p: o.AdamW(p)),
    "rmsprop with its defaults": (rmsprop(), lambda o, p: o.RMSprop(p, lr=1e-3)),
}
STEPS = 150


def torch_run(make, decay=0.0, *, clip=None, scheduler=None, scale=1.0):
    """The same steps in PyTorch, weights and the rest in two groups so that weights alone decay."""
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    first, rest = (torch.tensor(a) for a in np.split(start(), [N_WEIGHTS]))
    groups = [{"params": [first], "weight_decay": decay}, {"params": [rest], "weight_decay": 0.0}]
    optimizer = make(torch.optim, groups)
    scheduler = scheduler and scheduler(torch.optim.lr_scheduler, optimizer)
    for step in range(STEPS):
        grads = scale * gradient(np.concatenate([first.numpy(), rest.numpy()]), step)
        first.grad, rest.grad = (torch.tensor(g) for g in np.split(grads, [N_WEIGHTS]))
        if clip:
            torch.nn.utils.clip_grad_norm_([first, rest], clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return np.concatenate([first.numpy(), rest.numpy()])


@OPS
@pytest.mark.parametrize("twin", TWINS)
def test_torch_takes_the_same_steps(twin, make_ops):
    optimizer, make = TWINS[twin]
    decay = {"adamw": 0.3, "adamw with its defaults": 0.01}.get(twin, 0.0)
    expected = torch_run(make, decay)
    found = run(optimizer, start(), STEPS, ops=make_ops(np))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(expected - start()).max() > 0.05


@OPS
def test_torch_decays_the_weights_of_gradient_descent_alike(make_ops):
    """There, decay is part of the gradient, which for plain descent is the same."""
    expected = torch_run(TWINS["gd"][1], 0.4)
    found = run(gradient_descent(0.02, weight_decay=0.4), start(), STEPS, ops=make_ops(np))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@OPS
@pytest.mark.parametrize("max_norm", [0.5, 5.0, 1e6])
def test_torch_clips_the_gradient_alike(max_norm, make_ops):
    """PyTorch adds 1e-6 to the norm by which it divides."""
    expected = torch_run(TWINS["momentum"][1], clip=max_norm, scale=5.0)
    optimizer = clipped(TWINS["momentum"][0], max_norm)
    found = run(optimizer, start(), STEPS, ops=make_ops(np), scale=5.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@OPS
def test_torch_takes_the_same_steps_on_a_schedule(make_ops):
    expected = torch_run(
        lambda o, p: o.AdamW(p, lr=0.05),
        0.1,
        scheduler=lambda s, o: s.OneCycleLR(o, 0.05, total_steps=STEPS + 1, cycle_momentum=False),
    )
    optimizer = adamw(schedules.one_cycle(0.05, STEPS + 1), weight_decay=0.1)
    found = run(optimizer, start(), STEPS, ops=make_ops(np))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@EVERY
def test_the_same_numbers_give_the_same_optimizer(name):
    """So that what a compiler keeps for one run serves the next."""
    assert get(name, 0.1) is get(name, 0.1)
    assert clipped(get(name, 0.1), 1.0) is clipped(get(name, 0.1), 1.0)
    assert get(name, 0.1) is not get(name, 0.2)
    rates = np.array([[0.1], [0.2]])
    assert get(name, rates) is not get(name, rates)
