"""Rows on the disk: every row once in an epoch, in an order of (seed, epoch) alone."""

import numpy as np
import pytest

from nnaccel.devices.device import select
from nnaccel.maths.network import mlp
from nnaccel.training.loop import train
from nnaccel.training.on_disk import BLOCKS, DiskArray, DiskData, Order, windows_of

from ..conftest import named

N, D = 1013, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
Y = (X[:, 0] + np.abs(X[:, 1]) > 0.5).astype(np.int32)
WEIGHTS = RNG.uniform(0.5, 2, N).astype(np.float32)
WEIGHTS /= WEIGHTS.mean()


def on_disk(tmp_path, array, regions=1, name="rows"):
    path = tmp_path / f"{name}{array.dtype}{array.ndim}"
    path.write_bytes(b"head" + array.tobytes())
    return DiskArray(str(path), 4, array.shape, array.dtype, regions)


def data(tmp_path, regions):
    return DiskData(*(on_disk(tmp_path, array, regions) for array in (X, Y, WEIGHTS)))


def visited(data, epoch, batch_size, *, regions, seed=7, shuffle=True):
    """The numbers of the rows in the order of an epoch, and how many are in each window."""
    rows, sizes = [], []
    for window in windows_of(data, Order(N, regions, seed, shuffle, epoch), batch_size):
        places = np.flatnonzero((X[None] == window.X[window.order][:, None]).all(2)) % N
        np.testing.assert_array_equal(window.Y[window.order], Y[places])
        np.testing.assert_array_equal(window.weights[window.order], WEIGHTS[places])
        rows.append(places)
        sizes.append(len(places))
    return np.concatenate(rows), sizes


@pytest.mark.parametrize("regions", [1, 2, 7, 60])
@pytest.mark.parametrize("batch_size", [1, 32, 400])
def test_an_epoch_visits_every_row_once_in_whole_batches(tmp_path, regions, batch_size):
    disk = data(tmp_path, regions)
    first, sizes = visited(disk, 1, batch_size, regions=regions)
    np.testing.assert_array_equal(np.sort(first), np.arange(N))
    assert all(size % batch_size == 0 for size in sizes[:-1])
    np.testing.assert_array_equal(first, visited(disk, 1, batch_size, regions=regions)[0])
    assert (first != visited(disk, 2, batch_size, regions=regions)[0]).mean() > 0.9
    assert (first != visited(disk, 1, batch_size, regions=regions, seed=8)[0]).mean() > 0.9


def test_a_window_has_a_block_of_every_stretch_of_the_table():
    order = Order(100 * 640, 10, 3, True, 1)
    for blocks, _ in order.windows():
        stretches = sorted((start % 6400) // (6400 // BLOCKS) for start, _ in blocks)
        assert stretches == [*range(BLOCKS)]
    regions = [[start // 6400 for start, _ in blocks] for blocks, _ in order.windows()]
    assert min(len({*window}) for window in regions) > 5  # of ten


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
@pytest.mark.parametrize("regions", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_on_the_disk_train_as_those_in_memory_do(tmp_path, device, regions, weighted):
    """Without shuffling the order is that of the file, though windows do not end with batches."""
    named(device)
    disk = data(tmp_path, regions)
    how = {"loss": "binary_cross_entropy", "epochs": 2, "batch_size": 64, "device": select(device)}
    network = mlp(D, [8], 1)

    def last(X, Y, weights):
        weights = weights if weighted else None
        *_, epoch = train(network, X, Y, sample_weight=weights, shuffle=False, **how)
        return epoch

    found, expected = last(*disk), last(X, Y, WEIGHTS)
    if device == "jax":  # its compiler rounds differently for another number of steps
        np.testing.assert_allclose(found.params, expected.params, rtol=1e-4, atol=1e-6)
    else:
        np.testing.assert_array_equal(found.params, expected.params)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("regions", [1, 5])
def test_a_run_goes_on_bit_for_bit(tmp_path, regions):
    disk = data(tmp_path, regions)
    how = {"loss": "binary_cross_entropy", "epochs": 4, "batch_size": 50, "seed": 3}
    network = mlp(D, [8], 1, dropout=0.2)
    run = train(network, disk.X, disk.Y, device="cpu", dtype="float32", **how)
    for epoch in run:
        if epoch.number == 2:
            middle = epoch.copy()
    again = train(network, disk.X, disk.Y, device="cpu", dtype="float32", after=middle, **how)
    *_, last = again
    np.testing.assert_array_equal(last.params, epoch.params)
    assert last.loss == epoch.loss


def test_a_file_that_was_cut_is_an_error_and_no_crash(tmp_path):
    disk = data(tmp_path, 2)
    with open(disk.X.path, "r+b") as file:
        file.truncate(4 + 500 * D * 4)
    with pytest.raises(OSError, match="shorter than it was; remove it and start again"):
        visited(disk, 1, 10, regions=2)


def test_what_does_not_go_together_is_refused(tmp_path):
    disk, network = data(tmp_path, 1), mlp(D, [8], 1)
    how = {"loss": "binary_cross_entropy", "device": "cpu", "dtype": "float32"}
    with pytest.raises(TypeError, match="Y must be a DiskArray where X is one"):
        train(network, disk.X, Y, **how)
    with pytest.raises(ValueError, match=r"Y must have as many rows as X, got 10 for 1013"):
        train(network, disk.X, disk.Y.part(0, 10), **how)
    with pytest.raises(ValueError, match=r"X must be \(n_samples, 4\) for this network"):
        train(mlp(4, [8], 1), disk.X, disk.Y, **how)
