"""Counter-based random numbers: fair, independent draws, the same bits on every library."""

import itertools

import numpy as np
import pytest

from nnaccel.maths.random import Key, bernoulli, check_seed, mix, words

N = 1 << 16


def draw(seed=0, step=0, path=0, *, p=0.5, shape=(N,), xp=np):
    return bernoulli(Key(seed, np.asarray(step, dtype=np.int32), path), p, shape, xp=xp)


def chi_square_of_independence(a, b):
    """Of the 2 x 2 table of two boolean arrays; 1 degree of freedom, so 15.1 is a p of 1e-4."""
    counts = np.array([[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return float(np.sum((counts - expected) ** 2 / expected))


LIMIT = 15.1


def lowbias32(x):
    """The published function on unsigned Python integers."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
    x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
    return x ^ (x >> 16)


def test_the_hash_is_the_published_one():
    numbers = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xDEADBEEF, 123456789]
    mixed = mix(np.array(numbers, dtype=np.uint32).view(np.int32)).view(np.uint32)
    assert mixed.tolist() == [lowbias32(x) for x in numbers]


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.8, 0.999])
def test_the_share_of_true_is_the_probability(p):
    deviation = (draw(seed=3, step=7, path=1, p=p).sum() - N * p) / (N * p * (1 - p)) ** 0.5
    assert abs(deviation) < 4


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_impossible_never_happens_and_certain_always(p):
    assert draw(p=p).all() == draw(p=p).any() == bool(p)


def test_the_number_behind_each_element_is_uniform():
    """Draws of growing probability share their numbers, so their growth is a histogram."""
    draws = [draw(seed=5, step=2, p=k / 64) for k in range(65)]
    assert all((smaller <= larger).all() for smaller, larger in itertools.pairwise(draws))
    counts = np.diff([d.sum() for d in draws])
    chi_square = np.sum((counts - N / 64) ** 2 / (N / 64))
    assert chi_square < 63 + 4 * (2 * 63) ** 0.5


SEEDS = [0, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_program_of_jax_draws_for_every_seed(seed):
    jax = pytest.importorskip("jax")

    @jax.jit
    def program(seed):
        return bernoulli(Key(seed, jax.numpy.asarray(7, "int32"), 2), 0.3, (50,), xp=jax.numpy)

    found = program(jax.numpy.asarray(words(seed), "int32"))
    np.testing.assert_array_equal(np.asarray(found), draw(seed, 7, 2, p=0.3, shape=(50,)))


def test_every_element_is_fair_over_the_steps():
    steps = np.array([draw(step=step, shape=(256,)) for step in range(1000)])
    chi_square = np.sum((steps.sum(axis=0) - 500) ** 2 / 250)
    assert chi_square < 256 + 4 * (2 * 256) ** 0.5


KEYS = {
    "next step": {"step": 1},
    "step 1000": {"step": 1000},
    "next seed": {"seed": 1},
    "distant seed": {"seed": 2**31 - 1},
    "next place": {"path": 1},
    "place 32": {"path": 32},
    "next seed and place": {"seed": 1, "path": 1},
    "next step and place": {"step": 1, "path": 1},
}


@pytest.mark.parametrize("other", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_draws_of_different_keys_are_independent(other, p):
    assert chi_square_of_independence(draw(p=p), draw(**other, p=p)) < LIMIT


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 100, 4096])
def test_elements_of_one_draw_are_independent(lag):
    numbers = draw(seed=1, step=4)
    assert chi_square_of_independence(numbers[:-lag], numbers[lag:]) < LIMIT


@pytest.mark.parametrize(("seed", "other"), [*itertools.combinations(SEEDS, 2)])
def test_draws_of_different_seeds_are_independent(seed, other):
    for path, p in ((0, 0.5), (2, 0.9)):
        assert chi_square_of_independence(draw(seed, 3, path, p=p), draw(other, 3, path, p=p)) < 20


def test_no_two_seeds_have_the_same_words():
    seeds = {s ^ (1 << bit) for s in SEEDS for bit in range(64)} | {*range(1000)}
    found = {words(seed) for seed in seeds}
    assert len(found) == len(seeds)
    assert all(-(2**31) <= word < 2**31 for pair in found for word in pair)


def test_seeds_below_two_to_the_31_draw_what_they_always_drew():
    for seed in (0, 1, 12345, 2**31 - 1):
        number = (5 + (seed * 0x9E3779B9) % 2**31) * 0x9E3779B9 % 2**32
        number = lowbias32((lowbias32(number) + 7) % 2**32)
        bits = [lowbias32((i ^ number) * 0x9E3779B9 % 2**32) % 2**24 for i in range(64)]
        assert draw(seed, 5, 7, shape=(64,)).tolist() == [b < 2**23 for b in bits]


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "seed must be at least 0, got -1"),
        (2**64, ValueError, r"seed must be from 0 to 2\^64 - 1, got 18446744073709551616"),
        (0.5, TypeError, "seed must be a whole number of at least 0, got 0.5"),
    ],
)
def test_a_seed_out_of_range_is_refused(seed, error, message):
    with pytest.raises(error, match=message):
        check_seed(seed)
    assert type(check_seed(np.uint64(2**64 - 1))) is int


def test_a_seed_is_not_another_one_some_steps_later():
    for seed, step in ((1, 0), (0, 1), (2, 5), (7, 0)):
        for later in range(1, 4):
            ours, theirs = draw(seed, step + later), draw(seed + later, step)
            assert chi_square_of_independence(ours, theirs) < LIMIT


def test_every_part_of_a_network_has_a_path_of_its_own():
    """A hundred layers, blocks of thirty in them, and blocks of ten in those."""
    level, paths = [Key(0, np.zeros((), dtype=np.int32))], []
    for width in (100, 30, 10):
        level = [key.child(i) for key in level for i in range(width)]
        paths += [key.path for key in level]
    assert len({0, *paths}) == 1 + 100 + 3_000 + 30_000


def test_a_draw_depends_on_the_number_of_the_element_alone():
    np.testing.assert_array_equal(draw(shape=(6, 8)), draw(shape=(48,)).reshape(6, 8))
    np.testing.assert_array_equal(draw(shape=(5, 8)), draw(shape=(6, 8))[:5])


@pytest.mark.parametrize("shape", [(64, 100), (3, 5, 7), (1,), (0, 4)])
def test_the_bits_are_the_same_on_every_library(shape, xp_device):
    for seed, step, path, p in (
        (0, 0, 0, 0.5),
        (7, 123456, 33, 0.8),
        *((seed, 2**31 - 1, 2, 0.1) for seed in SEEDS),
    ):
        there = xp_device.asarray(np.asarray(step, dtype=np.int32))
        mask = bernoulli(Key(seed, there, path), p, shape, xp=xp_device.xp)
        expected = draw(seed, step, path, p=p, shape=shape)
        np.testing.assert_array_equal(xp_device.to_numpy(mask), expected, strict=True)
