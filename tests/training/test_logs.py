"""Logs: every epoch once, in order, whatever is interrupted."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from nnaccel.maths.network import mlp
from nnaccel.training import logs
from nnaccel.training.loop import train
from nnaccel.training.step import initialize

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
NETWORK = mlp(3, [4], 2)


def run(epochs=4, **options):
    options = {"loss": "softmax_cross_entropy", "validation_data": (X, Y), **options}
    return train(NETWORK, X, Y, epochs=epochs, metric="accuracy", **options)


def rows(path):
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return [{n: float(v) for n, v in row.items()} for row in csv.DictReader(file)]
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_line_for_each_epoch_as_it_comes(tmp_path, suffix):
    path, seen = tmp_path / f"log{suffix}", []
    for epoch in logs.to_file(run(), path):
        seen.append({"epoch": epoch.number, **logs.scalars(epoch)})
        assert rows(path)[:-1] == seen[: len(rows(path)) - 1]
    assert rows(path) == seen
    assert [*seen[0]] == [
        "epoch", "loss", "metric", "validation_loss", "validation_metric", "seconds",
        "samples_per_second",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_run_that_goes_on_leaves_out_what_comes_again(tmp_path, suffix, cut):
    path = tmp_path / f"log{suffix}"
    [*first] = (epoch.copy() for epoch in logs.to_file(run(3), path))
    if cut:
        path.write_text(path.read_text()[:-9])
    after = first[1]  # the checkpoint is older than the log
    [*_] = logs.to_file(run(5, after=after), path, append=True)
    assert [row["epoch"] for row in rows(path)] == [1, 2, 3, 4, 5]
    [*_] = logs.to_file(run(2), path)  # another run begins anew
    assert [row["epoch"] for row in rows(path)] == [1, 2]


def test_several_networks_have_a_number_each(tmp_path):
    params = initialize(NETWORK, members=2)
    [*_] = logs.to_file(run(1, params=params, validation_data=None), tmp_path / "log.jsonl")
    (row,) = rows(tmp_path / "log.jsonl")
    assert [*row][:5] == ["epoch", "loss.0", "loss.1", "metric.0", "metric.1"]


def test_what_is_not_finite_is_null_in_json(tmp_path):
    epoch = SimpleNamespace(
        number=1, scores=lambda: {"loss": np.nan}, seconds=0.0, samples_per_second=1.0
    )
    [*_] = logs.to_file([epoch], tmp_path / "log.jsonl")
    assert rows(tmp_path / "log.jsonl")[0]["loss"] is None


def test_a_disk_that_fails_costs_the_log_and_not_the_run(tmp_path, monkeypatch):
    import builtins

    real, calls = open, []

    def failing(file, mode="r", *args, **kwargs):
        calls.append(mode)
        if mode == "a" and calls.count("a") > 2:
            raise OSError(28, "No space left on device")
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", failing)
    with pytest.warns(RuntimeWarning, match="No space left on device; the log ends before epoch 3"):
        assert len([*logs.to_file(run(), tmp_path / "log.csv")]) == 4
    monkeypatch.undo()
    assert [row["epoch"] for row in rows(tmp_path / "log.csv")] == [1, 2]


def test_what_is_no_log_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"a log is a \.jsonl or a \.csv file, got"):
        logs.to_file(run(), tmp_path / "log.txt")
    with pytest.raises(FileNotFoundError):
        logs.to_file(run(), tmp_path / "none" / "log.csv")


def test_clients_of_others_are_told_each_number():
    told = []
    writer = SimpleNamespace(add_scalar=lambda *args: told.append(args))
    client = SimpleNamespace(log_metrics=lambda found, step: told.append((found, step)))
    for epoch in logs.to_mlflow(logs.to_tensorboard(run(2), writer), client):
        found = logs.scalars(epoch)
        assert told[-1] == (found, epoch.number)
        assert told[-1 - len(found) : -1] == [(n, v, epoch.number) for n, v in found.items()]
    assert len(told) == 2 * 7
