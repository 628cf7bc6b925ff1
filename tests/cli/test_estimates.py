"""Quantiles, and a mean with its standard deviation, on the command line."""

import json

import numpy as np
import pytest

from tests.cli.examples import QUICK, write

pytest.importorskip("sklearn", reason="scores need scikit-learn")
from pyarrow import csv

N = 120
ESTIMATES = {
    "quantiles": (("--quantile", "0.1", "0.5", "0.9"), ["y_q0.1", "y_q0.5", "y_q0.9"]),
    "gaussian": (("--loss", "gaussian"), ["y", "y_std"]),
}
KINDS = pytest.mark.parametrize("kind", ESTIMATES)


@pytest.fixture
def table(here):
    """A table of numbers in a file."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    return write("d.csv", {"x": x.tolist(), "y": (5 + x + 0.3 * rng.normal(size=N)).tolist()})


@KINDS
@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["whole", "streamed"])
def test_from_a_table_to_columns_and_scores(run, table, here, kind, stream):
    options, names = ESTIMATES[kind]
    spread = () if stream else ("--spread",)
    how = stream or ("--members", "2")
    out = run("train", table, "--target", "y", *options, *QUICK, *how, "--output", "m")
    assert {"quantiles": "coverage of q0.1 to q0.9", "gaussian": "CRPS"}[kind] in out
    run("predict", "m", table, "--output", "p.csv", *spread, *stream)
    found = csv.read_csv("p.csv")
    assert found.column_names == [*names, *(f"{name} spread" for name in names if spread)]
    assert found.num_rows == N
    scores = json.loads(run("evaluate", "m", table, "--json", "-", *stream))["models"][0]["scores"]
    y = csv.read_csv(table)["y"].to_numpy()
    A = np.stack([found[name].to_numpy() for name in names], axis=1)
    if kind == "quantiles":
        assert (np.diff(A, axis=1) >= 0).all()
        inside = np.mean((A[:, 0] <= y) & (y <= A[:, 2]))
        assert scores["coverage of q0.1 to q0.9"] == pytest.approx(inside)
    else:
        z = (y - A[:, 0]) / A[:, 1]
        nll = np.mean(0.5 * np.log(2 * np.pi * A[:, 1] ** 2) + 0.5 * z**2)
        assert scores["negative log likelihood"] == pytest.approx(nll, rel=1e-6)


def test_what_is_wrong_is_said_in_a_line(error, run, table):
    write("c.csv", {"x": list(range(20)), "label": ["a", "b"] * 10})
    train = ("train", table, "--target", "y", *QUICK)
    assert error(*train, "--quantile", "0.9", "0.1") == (
        "--quantile must ascend, each level once, got 0.9, 0.1; in order: 0.1, 0.9"
    )
    assert error(*train, "--quantile", "0.1", "1.5") == (
        "--quantile must be between 0 and 1, got 1.5"
    )
    assert error(*train, "--loss", "gaussian", "--quantile", "0.5") == (
        "loss 'gaussian' has no parameter 'quantile'; it has none"
    )
    assert error("train", "c.csv", "--target", "label", "--quantile", "0.1", "0.9") == (
        "quantile is for numbers, and the target has 2 classes; leave it out, or set task to "
        "regression"
    )
    assert error("train", "c.csv", "--target", "label", "--loss", "gaussian") == (
        "loss 'gaussian' is not for classification with 2 classes; leave it out, or change the task"
    )


def test_the_best_epoch_by_a_score(run, error, table):
    train = ("train", table, "--target", "y", *QUICK)
    run(*train, "--members", "2", "--scoring", "r2", "--output", "m")
    assert "validation score" in run("inspect", "m")
    found = error(*train, "--scoring", "roc_aux")
    assert found.startswith("--scoring must be one of loss, accuracy, ")
    assert found.endswith("got 'roc_aux'; did you mean 'roc_auc'?")
    assert error(*train, "--scoring", "r2", "--quantile", "0.1", "0.9") == (
        "scoring 'r2' is of one prediction for each target, and there are 2 quantiles; leave it out"
    )


def test_a_column_to_copy_may_not_be_one_of_predictions(error, run, table):
    run("train", table, "--target", "y", "--quantile", "0.1", "0.9", *QUICK, "--output", "m")
    write("e.csv", {"x": [1.0, 2.0], "y_q0.1": [1, 2]})
    assert error("predict", "m", "e.csv", "--with", "y_q0.1") == (
        "--with: 'y_q0.1' is also the name of a prediction; leave it out"
    )


def test_the_options_as_a_file(run, table, here):
    text = run("train", table, "--target", "y", "--quantile", "0.1", "0.9", "--print-config")
    (here / "run.yaml").write_text(text)
    run("train", "--config", "run.yaml", *QUICK, "--output", "m")
    assert run("predict", "m", table).splitlines()[0] == '"y_q0.1","y_q0.9"'
