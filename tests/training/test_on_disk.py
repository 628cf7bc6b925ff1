"""Rows on the disk: every row once in an epoch, in an order of (seed, epoch) alone."""

import weakref
from itertools import pairwise

import numpy as np
import pytest

from nnaccel.devices.device import select
from nnaccel.maths import losses
from nnaccel.maths.minibatch import bounds
from nnaccel.maths.network import mlp
from nnaccel.training import on_disk
from nnaccel.training.loop import train
from nnaccel.training.on_disk import BLOCKS, DiskArray, DiskBatches, DiskData, Order, between

from ..conftest import named

N, D = 1013, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
Y = (X[:, 0] + np.abs(X[:, 1]) > 0.5).astype(np.int32)
WEIGHTS = RNG.uniform(0.5, 2, N).astype(np.float32)
WEIGHTS /= WEIGHTS.mean()


def written(tmp_path, array, regions=1, name="rows"):
    path = tmp_path / f"{name}{array.dtype}{array.ndim}"
    path.write_bytes(b"head" + array.tobytes())
    return DiskArray(str(path), 4, array.shape, array.dtype, regions)


def data(tmp_path, regions):
    return DiskData(*(written(tmp_path, array, regions) for array in (X, Y, WEIGHTS)))


def visited(data, epoch, batch_size, *, regions, seed=7, shuffle=True, devices=1):
    """The numbers of the rows in the order of an epoch, and the sizes of its minibatches, of which
    that many devices each have a share."""
    rows, sizes = [], []
    places = {tuple(x): i for i, x in enumerate(X.tolist())}
    cuts = np.linspace(0, 1, devices + 1)
    loss = losses.get("softmax_cross_entropy")
    for window in Order(N, regions, seed, shuffle, epoch).windows(batch_size):
        batches, found = DiskBatches(data, window, mlp(D, [8], 2), loss, "float32"), []
        for start, stop in pairwise((cuts * batches.shape[1]).astype(int).tolist()):
            if start == stop:  # more devices than rows
                continue
            some, index = batches.rows(start, stop), batches.index(start, stop)
            numbers = np.array([places[tuple(x)] for x in some.X.tolist()], int)
            np.testing.assert_array_equal(some.Y, Y[numbers])
            np.testing.assert_array_equal(some.weights, WEIGHTS[numbers])
            assert len(numbers) == index.size  # and no other rows are read
            found.append(numbers[index])
        minibatches = np.concatenate(found, axis=1)
        rows.append(minibatches.reshape(-1))
        sizes += [minibatches.shape[1]] * len(minibatches)
    return np.concatenate(rows), sizes


@pytest.mark.parametrize("regions", [1, 2, 7, 60])
@pytest.mark.parametrize("batch_size", [1, 32, 400])
def test_an_epoch_visits_every_row_once_in_whole_batches(tmp_path, regions, batch_size):
    disk = data(tmp_path, regions)
    first, sizes = visited(disk, 1, batch_size, regions=regions)
    np.testing.assert_array_equal(np.sort(first), np.arange(N))
    assert sizes == [stop - start for start, stop in bounds(N, batch_size)]
    np.testing.assert_array_equal(first, visited(disk, 1, batch_size, regions=regions)[0])
    assert (first != visited(disk, 2, batch_size, regions=regions)[0]).mean() > 0.9
    assert (first != visited(disk, 1, batch_size, regions=regions, seed=8)[0]).mean() > 0.9


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("devices", [2, 3, 5])
def test_several_devices_read_their_rows_of_the_same_minibatches(tmp_path, devices, shuffle):
    disk = data(tmp_path, 3)
    how = {"regions": 3, "shuffle": shuffle}
    for batch_size in (4, 48, 89):
        expected = visited(disk, 1, batch_size, **how)
        found = visited(disk, 1, batch_size, **how, devices=devices)
        np.testing.assert_array_equal(found[0], expected[0])


def test_a_window_has_a_block_of_every_stretch_of_the_table():
    windows = [*Order(100 * 640, 10, 3, True, 1).windows(64)]
    assert len(windows) == 10
    for window in windows:
        spans = [span for span in window.spans if span[1] - span[0] == 6400 // BLOCKS]
        assert len(spans) >= BLOCKS - 1  # one is cut
        stretches = [(start % 6400) // (6400 // BLOCKS) for start, _ in spans]
        assert len({*stretches}) == len(stretches)
        assert len({start // 6400 for start, _ in spans}) > 5  # of ten regions


def test_each_row_of_a_minibatch_is_of_another_stretch_of_its_window():
    for window in Order(100 * 640, 10, 3, True, 1).windows(64):
        steps = len(window.order)
        assert (window.order // steps == np.arange(64)).all()
        assert len(window.spans_of(16, 32)) <= BLOCKS // 4 + 2  # long reads
    other = next(Order(100 * 640, 10, 3, True, 2).windows(64))
    assert (window.order != other.order).mean() > 0.9


def test_rows_between_two_of_some_spans():
    spans = [(10, 15), (3, 5), (20, 30)]
    assert between(spans, 0, 17) == spans
    assert between(spans, 2, 8) == [(12, 15), (3, 5), (20, 21)]
    assert between(spans, 5, 5) == []


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


def test_there_is_never_a_third_window(tmp_path, monkeypatch):
    """One is in use and one is read: the memory of the one before is free by then."""
    windows, most, read = weakref.WeakValueDictionary(), [], on_disk._read

    def watched(array, spans):
        if array.ndim == 1:
            return read(array, spans)
        most.append(1 + len(windows))
        windows[len(most)] = found = read(array, spans)
        return found

    monkeypatch.setattr(on_disk, "_read", watched)
    disk = data(tmp_path, 8)
    how = {"loss": "binary_cross_entropy", "epochs": 2, "batch_size": 10, "dtype": "float32"}
    for _ in train(mlp(D, [8], 1), disk.X, disk.Y, device="cpu", **how):
        pass
    assert len(most) == 2 * 9  # the short batch is one, too
    assert max(most) == 2


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
