"""Members: folds, the encoding's edges, the choice by out-of-fold loss, and calibration."""

import numpy as np
import pytest

from nnaccel.maths import losses
from nnaccel.maths.network import mlp
from nnaccel.tabular.calibration import HeldOut, calibrate, logits_of, scale_of
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.members import Folds, Trained, best_of, bin_edges, joined, with_both
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings, build, resolve
from nnaccel.tabular.sources import Examples
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

rng = np.random.default_rng(0)


def table(N=300, *, task="regression"):
    x = rng.standard_normal((N, 3))
    y = np.sin(3 * x[:, 0]) + x[:, 1]
    y = np.where(y > 0, "yes", "no") if task == "classification" else y
    return Examples("test", x, y, "y", None, task, None)


def trained(task="regression", **settings):
    fit = Fit(table(task=task), Settings(epochs=6, **settings))
    epochs = [*fit]
    return fit, epochs, fit.model()


# Folds


@pytest.mark.parametrize(("N", "K"), [(10, 5), (11, 5), (101, 3), (1000, 7)])
def test_every_row_is_in_one_fold_and_each_class_in_every_fold(N, K):
    codes = rng.integers(0, 2, N)
    folds = Folds.of(codes, K, 3, stratify=True)
    rows = folds.index[folds.real > 0]
    assert sorted(rows.tolist()) == [*range(N)]
    sizes = np.bincount(folds.number, minlength=K)
    assert sizes.max() - sizes.min() <= 1
    for c in (0, 1):
        shares = np.bincount(folds.number[codes == c], minlength=K)
        assert shares.max() - shares.min() <= 1
    weights = folds.training_weights(None)
    np.testing.assert_array_equal(weights == 0, folds.number == np.arange(K)[:, None])
    values = rng.standard_normal(N)
    np.testing.assert_array_equal(folds.scattered(values[folds.index]), values)


def test_folds_are_those_of_the_seed():
    codes = np.arange(50)
    one, same, other = (Folds.of(codes, 5, seed, stratify=False).number for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_more_members_than_rows_bear_are_refused():
    with pytest.raises(ValueError, match="members must be at most half of the 9 training rows"):
        Folds.of(np.arange(9), 5, 0, stratify=False)


# Edges


def test_edges_are_where_the_rows_and_where_the_values_are():
    x = np.concatenate([np.zeros(900), np.linspace(0, 1, 101)])
    [edges] = bin_edges(x[:, None].astype("float32"), 1)
    assert edges[0] == 0
    assert edges[-1] == 1
    assert 32 < len(edges) <= 66  # quantiles of the rows alone would have next to none above 0
    assert (np.diff(edges) > 0).all()


def test_two_values_and_missing_ones_have_no_bins():
    X = np.stack([np.arange(8) % 2, np.arange(8), np.zeros(8)], axis=1).astype("float32")
    present = np.ones((8, 2), bool)
    present[4:, 1] = False
    two, some = bin_edges(X, 2, present)
    assert two == ()
    assert some == (0.0, 1.0, 2.0, 3.0)


def test_many_columns_share_the_bins():
    X = rng.standard_normal((500, 300)).astype("float32")
    assert max(map(len, bin_edges(X, 300))) <= 10


# The choice


def test_the_least_loss_is_chosen_and_the_mean_may_be_it():
    loss, Y = losses.get("squared_error"), rng.standard_normal((50, 1))
    error = rng.standard_normal((50, 1))
    found = {"plain": Y + error, "piecewise": Y - error, "both": Y}
    assert best_of(found, Y, None, loss) == "both"
    assert best_of(found | {"both": Y + 9}, Y - error, None, loss) == "piecewise"


@pytest.mark.parametrize("name", ["binary_cross_entropy", "softmax_cross_entropy", "poisson"])
def test_the_loss_of_predictions_is_that_of_their_logits(name):
    loss, Z = losses.get(name), rng.standard_normal((20, 3))
    Y = rng.integers(0, 3, 20) if loss.targets.kind == "classes" else rng.integers(0, 2, (20, 3))
    expected, _ = loss.function(Z, Y, None, xp=np)
    both = with_both({"plain": Z, "piecewise": Z}, loss)["both"]
    assert loss.function(both, Y, None, xp=np)[0] == pytest.approx(float(expected))


def test_the_mean_of_both_is_of_predictions():
    loss = losses.get("binary_cross_entropy")
    one, other = rng.standard_normal((2, 20, 1))
    both = with_both({"plain": one, "piecewise": other}, loss)["both"]
    mean = (loss.link(one, xp=np) + loss.link(other, xp=np)) / 2
    np.testing.assert_allclose(loss.link(both, xp=np), mean)


def test_a_link_without_an_inverse_has_no_mean():
    loss = losses.get("squared_error")._replace(link=lambda Z, *, xp: Z)
    Z, Y = rng.standard_normal((20, 1)), rng.standard_normal((20, 1))
    found = with_both({"plain": Z, "piecewise": Y}, loss)
    assert [*found] == ["plain", "piecewise"]
    assert best_of(found, Y, None, loss) == "piecewise"


def test_both_of_a_table_without_numbers_is_plain():
    x = rng.choice(["a", "b", "c"], 100)
    pa = pytest.importorskip("pyarrow")
    data = Examples(
        "t", pa.table({"x": x}), (x == "a").astype(float), "y", None, "regression", None
    )
    fit = Fit(data, Settings(numbers="both", epochs=2))
    assert len(list(fit)) == 2
    assert fit.model().settings["numbers"] == "plain"


def test_plain_networks_are_the_same_beside_bins():
    edges = ((0.0, 1.0, 2.0), ())
    settings = resolve(Settings(hidden=(5, 4), members=3), 100, 0)
    plain, _, loss = build(settings, 2, 1, 100)[0], None, losses.get("squared_error")
    piecewise = build(settings, 2, 1, 100, edges)[0]
    both = joined(
        Trained("plain", plain, initialize(plain, 1, members=3)),
        Trained("piecewise", piecewise, initialize(piecewise, 2, members=3)),
    )
    X = rng.standard_normal((9, 2))
    found = predict(both.network, both.params, X, loss=loss)
    np.testing.assert_allclose(found[:3], predict(plain, initialize(plain, 1, members=3), X))


# The fit


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("numbers", ["auto", "plain", "piecewise", "both"])
def test_a_model_is_the_mean_of_its_networks(task, numbers, tmp_path):
    fit, epochs, model = trained(task, numbers=numbers)
    kinds = 2 if numbers in ("auto", "both") else 1
    assert len(epochs) == 6 * kinds
    assert [epoch.number for epoch in epochs] == [*range(1, 6 * kinds + 1)]
    assert model.members == (10 if model.settings["numbers"] == "both" else 5)
    if numbers != "auto":
        assert model.settings["numbers"] == numbers
    X = table(20).data
    each = model._each(model.features.transform(X), None)
    mean = model.target.outputs(each.mean(axis=0))
    np.testing.assert_allclose(model.outputs(X), mean, rtol=1e-12)
    spread = model.spread(X)
    assert spread.shape == (20,)
    assert (spread > 0).all()
    name = "RMSE" if task == "regression" else "accuracy"
    assert model.scores[f"out-of-fold {name}"] > 0
    assert model.scores[f"out-of-fold {name}, spread"] >= 0
    model.save(tmp_path / "m.safetensors")
    again = Model.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.outputs(X), model.outputs(X))
    assert again.scores == model.scores
    assert fit.rows["validation"] == 0


def test_out_of_fold_scores_are_those_of_networks_that_have_not_seen_the_row():
    """Targets that nothing tells: whoever has seen a row knows more of it than others."""
    X, y = rng.standard_normal((200, 4)), rng.standard_normal(200)
    settings = Settings(members=5, numbers="piecewise", epochs=40, dropout=0.0, weight_decay=0.0)
    fit = Fit(Examples("noise", X, y, "y", None, "regression", None), settings, test_fraction=0)
    list(fit)
    model = fit.model()
    seen = np.sqrt(np.mean((model.outputs(X) - y) ** 2))
    assert model.scores["out-of-fold RMSE"] > 0.98 * y.std() > seen


def test_one_network_has_no_spread():
    _, _, model = trained(members=1)
    assert model.members == 1
    with pytest.raises(ValueError, match="the model is one network, which has no spread"):
        model.spread(table(5).data)


# Calibration


def test_a_network_is_as_certain_as_held_out_rows_tell():
    N, loss = 4000, losses.get("binary_cross_entropy")
    x = rng.standard_normal((N, 1))
    Y = (rng.random((N, 1)) < 1 / (1 + np.exp(-x))).astype(float)
    network = mlp(1, [], 1)
    certain = np.array([5.0, 0.0])  # the truth is the weight 1
    held_out = HeldOut(x, Y, None)
    scale, value = scale_of(logits_of(network, certain, held_out), held_out, loss)
    assert 5 * scale == pytest.approx(1, abs=0.1)
    kept = calibrate(network, certain, scale)
    assert kept == pytest.approx(certain * scale)
    assert value == pytest.approx(loss.function(x * kept[0], Y, None, xp=np)[0], rel=1e-6)


def test_nothing_is_made_more_certain():
    x = np.array([[-1.0], [1.0]])
    rows, loss = HeldOut(x, (x > 0) * 1.0, None), losses.get("binary_cross_entropy")
    scale, _ = scale_of(logits_of(mlp(1, [], 1), np.array([0.5, 0.0]), rows), rows, loss)
    assert scale == 1
