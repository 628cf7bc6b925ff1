"""Learning-rate schedules: their shapes, on every array library, and PyTorch's as oracle."""

import math
from functools import partial

import numpy as np
import pytest

from nnaccel.maths import schedules
from nnaccel.maths.schedules import SCHEDULES, get

EVERY = pytest.mark.parametrize("name", SCHEDULES)


def rates(schedule, steps):
    """The rates of so many steps, each computed on its own, as an optimizer does."""
    return [float(schedule(np.asarray(float(step)), xp=np)) for step in range(steps)]


# Shapes worked by hand


def test_constant():
    assert rates(schedules.constant(0.1), 3) == [0.1, 0.1, 0.1]


def test_step_falls_by_the_factor_every_so_often():
    expected = [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert rates(schedules.step(0.4, every=2, factor=0.5), 6) == pytest.approx(expected)


def test_exponential_reaches_the_factor_after_every_so_many_steps():
    found = rates(schedules.exponential(0.4, every=4, factor=0.25), 9)
    assert found[::2] == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.025])


def test_inverse_scaling_divides_by_a_power_of_the_step():
    assert rates(schedules.inverse_scaling(0.6), 9)[::3] == pytest.approx([0.6, 0.3, 0.6 / 7**0.5])
    assert rates(schedules.inverse_scaling(0.6, power=1.0), 3) == pytest.approx([0.6, 0.3, 0.2])


def test_cosine_goes_half_a_wave_and_stays():
    found = rates(schedules.cosine(0.8, steps=6, final=0.25), 10)
    assert found[0] == pytest.approx(0.8)
    assert found[2] == pytest.approx(0.8 * (0.25 + 0.75 * 0.75))
    assert found[3] == pytest.approx(0.5)
    assert found[6:] == pytest.approx([0.2] * 4)


def test_warm_up_grows_in_a_line_and_then_follows_the_schedule_from_its_start():
    found = rates(schedules.warm_up(schedules.step(0.8, every=2, factor=0.5), steps=4), 9)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:] == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


def test_one_cycle_rises_to_the_rate_and_falls_to_almost_nothing():
    found = rates(schedules.one_cycle(1.0, steps=21, rise=1 / 3), 21)
    assert found[0] == pytest.approx(0.04)
    assert found[3] == pytest.approx(0.52)
    assert found[6] == pytest.approx(1.0)
    assert found[13] == pytest.approx(0.5, abs=1e-5)
    assert found[20] == pytest.approx(4e-6)
    assert np.all(np.diff(found[:7]) > 0)
    assert np.all(np.diff(found[6:]) < 0)


# What holds for every one of them


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
def test_rates_are_positive_and_at_most_the_rate(name, steps):
    found = np.array(rates(get(name, 0.1, steps), steps))
    assert np.all(found > 0)
    assert np.all(found <= 0.1 * (1 + 1e-12))


@EVERY
def test_a_run_that_goes_on_after_its_end_gets_finite_rates(name):
    found = np.array(rates(get(name, 0.1, 10), 30))
    assert np.all((found >= 0) & (found <= 0.1 * (1 + 1e-12)))


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_library_keeps_dtype_and_gives_the_same_rates(name, dtype, xp_device):
    schedule = get(name, 0.1, 50)
    for step in (0, 3, 14, 15, 49, 70):
        there = xp_device.asarray(np.asarray(step, dtype=dtype))
        rate = schedule(there, xp=xp_device.xp)
        assert rate.dtype == getattr(xp_device.xp, dtype)
        assert tuple(rate.shape) == ()
        expected = float(schedule(np.asarray(float(step)), xp=np))
        found = float(xp_device.to_numpy(rate))
        assert found == pytest.approx(expected, rel=3e-5 if dtype == "float32" else 1e-12, abs=1e-7)


@EVERY
def test_each_of_K_networks_may_have_a_rate_of_its_own(name, xp_device):
    each = [0.3, 0.01, 0.002]
    schedule = get(name, xp_device.asarray(np.array(each)[:, None]), 20)
    for step in (0, 5, 12):
        found = schedule(xp_device.asarray(np.asarray(float(step))), xp=xp_device.xp)
        expected = [rates(get(name, rate, 20), 13)[step] for rate in each]
        np.testing.assert_allclose(xp_device.to_numpy(found)[:, 0], expected, rtol=1e-12)


@EVERY
def test_a_schedule_can_be_traced(name):
    jax = pytest.importorskip("jax", reason="tracing is JAX's")
    traced = jax.jit(lambda step: get(name, 0.1, 10)(step, xp=jax.numpy))
    found = [float(traced(jax.numpy.asarray(float(step)))) for step in range(12)]
    assert found == pytest.approx(rates(get(name, 0.1, 10), 12), rel=1e-12)


def test_the_customary_shapes():
    assert rates(get("step", 1.0, 9), 9)[::3] == pytest.approx([1.0, 0.1, 0.01])
    assert rates(get("exponential", 1.0, 10), 11)[10] == pytest.approx(0.01)
    warm = rates(get("warm_up", 1.0, 100), 101)
    assert warm[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert warm[100] == pytest.approx(0.0, abs=1e-15)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="schedule must be one of .*did you mean 'cosine'"):
        get("cosin", 0.1, 10)


# PyTorch's schedulers

STEPS = 40

TWINS = {
    "step": (
        schedules.step(0.1, every=7, factor=0.3),
        lambda s, o: s.StepLR(o, step_size=7, gamma=0.3),
    ),
    "exponential": (
        schedules.exponential(0.1, every=5, factor=0.5),
        lambda s, o: s.ExponentialLR(o, gamma=0.5**0.2),
    ),
    "cosine": (
        schedules.cosine(0.1, steps=STEPS, final=0.05),
        lambda s, o: s.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.005),
    ),
    "one_cycle": (
        schedules.one_cycle(0.1, steps=STEPS),
        lambda s, o: s.OneCycleLR(o, max_lr=0.1, total_steps=STEPS),
    ),
    "one_cycle, long rise": (
        schedules.one_cycle(0.1, steps=STEPS, rise=0.6, start=0.1, final=1e-3),
        lambda s, o: s.OneCycleLR(
            o, max_lr=0.1, total_steps=STEPS, pct_start=0.6, div_factor=10, final_div_factor=100
        ),
    ),
    "warm_up": (
        schedules.warm_up(schedules.constant(0.1), steps=8),
        lambda s, o: s.LinearLR(o, start_factor=1 / 8, total_iters=7),
    ),
}


@pytest.mark.parametrize("twin", TWINS)
def test_torch_gives_the_same_rates(twin):
    torch = pytest.importorskip("torch", reason="PyTorch is an oracle where it is installed")
    schedule, make = TWINS[twin]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    expected = []
    for _ in range(STEPS):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(schedule, STEPS) == pytest.approx(expected, rel=1e-10)
    assert not math.isclose(expected[0], expected[-1])


# Ranges


IS_AMOUNT, IS_COUNT = "at least 0 and finite", "at least 1 and finite"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.constant(math.nan), f"rate must be {IS_AMOUNT}, got nan"),
        (lambda: schedules.constant(-0.1), f"rate must be {IS_AMOUNT}, got -0.1"),
        (lambda: schedules.step(0.1, 0), f"every must be {IS_COUNT}, got 0"),
        (lambda: schedules.step(0.1, 5, 0.0), "factor must be above 0 and finite, got 0.0"),
        (lambda: schedules.exponential(0.1, -2), f"every must be {IS_COUNT}, got -2"),
        (lambda: schedules.exponential(0.1, 2, -1), "factor must be above 0 and finite, got -1"),
        (lambda: schedules.inverse_scaling(0.1, math.inf), f"power must be {IS_AMOUNT}, got inf"),
        (lambda: schedules.cosine(0.1, 0), f"steps must be {IS_COUNT}, got 0"),
        (lambda: schedules.cosine(0.1, 9, -1), f"final must be {IS_AMOUNT}, got -1"),
        (lambda: schedules.warm_up(lambda step, xp: step, 0), f"steps must be {IS_COUNT}, got 0"),
        (lambda: schedules.one_cycle(0.1, 9, rise=1.5), "rise must be from 0 to 1, got 1.5"),
        (lambda: schedules.one_cycle(0.1, 9, start=-1), f"start must be {IS_AMOUNT}, got -1"),
        *((partial(get, name, 0.1, 0), f"steps must be {IS_COUNT}, got 0") for name in SCHEDULES),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_a_schedule_of_other_rates_for_each_network_says_of_how_many():
    rates = np.asarray([0.1, 0.2])
    assert schedules.cosine(rates, 5).members == 2
    assert schedules.warm_up(schedules.cosine(rates, 5), 3).members == 2
    assert not hasattr(schedules.cosine(0.1, 5), "members")
