"""Quantiles, and means with their deviations, of tables: columns, members, scores, files."""

import re
import runpy

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
metrics = pytest.importorskip("sklearn.metrics", reason="scores need scikit-learn")
import pyarrow as pa
from scipy import stats

from nnaccel import Model
from nnaccel.devices.device import to_host
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss, squared_error
from nnaccel.tabular.contributions import contributions
from nnaccel.tabular.estimates import points_of
from nnaccel.tabular.importance import partial_dependence, permutation_importance
from nnaccel.tabular.members import with_both
from nnaccel.tabular.model import scoring_of
from nnaccel.tabular.scores import scores_of
from nnaccel.tabular.settings import Settings, loss_for, resolve
from nnaccel.tabular.streamed.scores import Scores
from nnaccel.tabular.targets import Target
from nnaccel.training.prediction import predict
from tests.export.examples import fitted, outputs_of

LEVELS = (0.1, 0.5, 0.9)
N = 200
rng = np.random.default_rng(0)
COLUMNS = {"x": rng.uniform(-1, 1, N).tolist(), "c": rng.choice(["a", "b"], N).tolist()}
X, C = np.array(COLUMNS["x"]), np.array(COLUMNS["c"])
Y = 1e4 + 100 * (X + (C == "a") + (0.5 + 0.3 * X) * rng.standard_normal(N))
SETTINGS = {
    "members": 3,
    "numbers": "both",
    "epochs": 12,
    "dtype": "float64",
    "learning_rate": 0.02,
}
KINDS = {"quantiles": {"quantile": LEVELS}, "gaussian": {"loss": "gaussian"}}
KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def models():
    """A model of each kind of one target `y`, and of the two targets `y` and `z`."""
    two = pa.table({"y": Y, "z": 5 - Y / 100})
    return {
        (kind, n): fitted(COLUMNS, y, name=name, **SETTINGS, **options)
        for kind, options in KINDS.items()
        for n, (y, name) in {1: (Y, "y"), 2: (two, "y, z")}.items()
    }


# Predictions


@KIND
def test_the_columns_of_predictions(models, kind):
    suffixes = {"quantiles": ["_q0.1", "_q0.5", "_q0.9"], "gaussian": ["", "_std"]}[kind]
    one, two = models[kind, 1], models[kind, 2]
    P = len(suffixes)
    outputs, several = outputs_of(one, COLUMNS), outputs_of(two, COLUMNS)
    assert outputs.shape == (N, P)
    assert several.shape == (N, 2, P)
    found = one.predict(COLUMNS)
    assert [*found] == [f"y{suffix}" for suffix in suffixes]
    np.testing.assert_array_equal(np.stack([*found.values()], axis=1), outputs)
    found = two.predict(COLUMNS)
    assert [*found] == [f"{name}{suffix}" for name in "yz" for suffix in suffixes]
    np.testing.assert_array_equal(np.stack([*found.values()], axis=1), several.reshape(N, 2 * P))


@pytest.mark.parametrize("n", [1, 2])
def test_the_deviation_of_several_networks_is_that_of_their_mixture(models, n):
    model = models["gaussian", n]
    A = to_host(predict(model.network, model.params, model.features.transform(COLUMNS, "float64")))
    scale = np.array([t.scale for t in getattr(model.target, "columns", (model.target,))])
    mean = np.array([t.mean for t in getattr(model.target, "columns", (model.target,))])
    means, raw = A[..., :n] * scale + mean, A[..., n:]
    variances = (np.log1p(np.exp(raw)) + 1e-6) * scale**2
    outputs = outputs_of(model, COLUMNS).reshape(N, n, 2)
    np.testing.assert_allclose(outputs[..., 0], means.mean(axis=0), rtol=1e-10)
    total = variances.mean(axis=0) + means.var(axis=0)
    np.testing.assert_allclose(outputs[..., 1], np.sqrt(total), rtol=1e-8)
    assert (means.var(axis=0) / total).max() > 0.01  # so that it makes a difference


@pytest.mark.parametrize("n", [1, 2])
def test_quantiles_are_means_over_the_networks_and_never_cross(models, n):
    model = models["quantiles", n]
    A = predict(
        model.network, model.params, model.features.transform(COLUMNS, "float64"), loss=model.loss
    )
    outputs = outputs_of(model, COLUMNS).reshape(N, n, 3)
    assert (np.diff(outputs, axis=2) >= 0).all()
    first = getattr(model.target, "columns", (model.target,))[0]
    expected = A.mean(axis=0)[:, ::n] * first.scale + first.mean
    np.testing.assert_allclose(outputs[:, 0], expected, rtol=1e-10)


@KIND
def test_the_spread_is_that_of_each_column(models, kind):
    model = models[kind, 2]
    outputs, spread = model.outputs_and_spread(COLUMNS)
    assert spread.shape == outputs.shape
    assert (spread > 0).all()


@KIND
def test_they_are_about_right(models, kind):
    outputs = outputs_of(models[kind, 1], COLUMNS)
    if kind == "quantiles":
        covered = np.mean(Y[:, None] <= outputs, axis=0)
        np.testing.assert_allclose(covered, LEVELS, atol=0.08)
    else:
        z = (Y - outputs[:, 0]) / outputs[:, 1]
        assert np.std(z) == pytest.approx(0.9, abs=0.2)


@pytest.mark.parametrize("quantile", [(0.1, 0.3, 0.5, 0.9), (0.8, 0.9), 0.3])
def test_the_logits_of_the_mean_of_two_kinds_predict_it(quantile):
    loss = losses.get("pinball", quantile=quantile)
    Z = [2 * rng.standard_normal((50, 2 * loss.n_outputs)) for _ in range(2)]
    both = with_both(dict(zip(["plain", "piecewise"], Z, strict=True)), loss)["both"]
    mean = (loss.predict(Z[0], xp=np) + loss.predict(Z[1], xp=np)) / 2
    np.testing.assert_allclose(loss.predict(both, xp=np), mean, rtol=1e-9)


def test_the_logits_of_the_mixture_of_two_kinds_predict_it():
    loss = losses.get("gaussian")
    Z = [2 * rng.standard_normal((50, 4)) for _ in range(2)]
    both = with_both(dict(zip(["plain", "piecewise"], Z, strict=True)), loss)["both"]
    mixture = loss.pool(np.stack([loss.predict(z, xp=np) for z in Z]), xp=np)
    np.testing.assert_allclose(loss.predict(both, xp=np), mixture, rtol=1e-9)


# Scores


def test_scores_of_quantiles_are_those_of_scikit_learn(models):
    model, w = models["quantiles", 1], rng.uniform(0.5, 2, N)
    A = outputs_of(model, COLUMNS)
    found = model.evaluate(COLUMNS, Y, weights=w)
    each = [
        metrics.mean_pinball_loss(Y, A[:, k], alpha=q, sample_weight=w)
        for k, q in enumerate(LEVELS)
    ]
    expected = {
        "pinball loss": np.mean(each),
        **{f"pinball loss of q{q}": v for q, v in zip(LEVELS, each, strict=True)},
        **{f"coverage of q{q}": np.average(A[:, k] >= Y, weights=w) for k, q in enumerate(LEVELS)},
        "coverage of q0.1 to q0.9": np.average((A[:, 0] <= Y) & (A[:, 2] >= Y), weights=w),
        "width of q0.1 to q0.9": np.average(A[:, 2] - A[:, 0], weights=w),
        "pinball loss of always the quantiles": np.mean(
            [
                metrics.mean_pinball_loss(
                    Y, np.full(N, np.quantile(Y, q)), alpha=q, sample_weight=w
                )
                for q in LEVELS
            ]
        ),
    }
    assert found == pytest.approx(expected, rel=1e-12)


def test_scores_of_a_mean_with_its_deviation(models):
    model = models["gaussian", 1]
    mean, std = outputs_of(model, COLUMNS).T
    found = model.evaluate(COLUMNS, Y)
    inside = {share: stats.norm(mean, std).interval(share) for share in (0.5, 0.9)}
    expected = {
        "RMSE": metrics.root_mean_squared_error(Y, mean),
        "MAE": metrics.mean_absolute_error(Y, mean),
        "R²": metrics.r2_score(Y, mean),
        "RMSE of always the mean": np.std(Y),
        "negative log likelihood": -np.mean(stats.norm(mean, std).logpdf(Y)),
        "CRPS": found["CRPS"],
        "coverage of 50%": np.mean((inside[0.5][0] <= Y) & (inside[0.5][1] >= Y)),
        "coverage of 90%": np.mean((inside[0.9][0] <= Y) & (inside[0.9][1] >= Y)),
        "negative log likelihood of always the mean and variance": -np.mean(
            stats.norm(np.mean(Y), np.std(Y)).logpdf(Y)
        ),
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_crps_is_the_integral_over_the_distribution_function():
    """Gneiting, Raftery (2007), eq. 20: of (F(t) - [t >= y])^2 over t."""
    target = Target("regression", "y", (), 0.0, 1.0)
    outputs, y = np.array([[1.0, 2.0], [0.0, 0.5]]), np.array([4.0, -0.2])
    t = np.linspace(-30, 30, 600_001)
    expected = [
        np.trapezoid((stats.norm(m, s).cdf(t) - (t >= v)) ** 2, t)
        for (m, s), v in zip(outputs, y, strict=True)
    ]
    found = scores_of(target, outputs, y, has_deviation=True)["CRPS"]
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("weights", [None, rng.uniform(0, 3, N)], ids=["plain", "weighted"])
@pytest.mark.parametrize("n", [1, 2])
@KIND
def test_scores_batch_by_batch_are_those_of_all_rows(models, kind, n, weights):
    model = models[kind, n]
    y = Y if n == 1 else pa.table({"y": Y, "z": 5 - Y / 100})
    expected = model.evaluate(COLUMNS, y, weights=weights)
    found, outputs = Scores(model.target, **scoring_of(model.loss)), outputs_of(model, COLUMNS)
    codes = model.target.encode(y)
    for part in (slice(0, 90), slice(90, N)):
        found.add(outputs[part], codes[part], None if weights is None else weights[part])
    result = found.result()
    assert len(result) > 5 * n
    assert result == pytest.approx({name: expected[name] for name in result}, rel=1e-9)
    left_out = {name.rpartition(": ")[2] for name in expected.keys() - result.keys()}
    assert left_out == ({"pinball loss of always the quantiles"} if kind == "quantiles" else set())


# What a model makes of the columns


@pytest.mark.parametrize("n", [1, 2])
@KIND
def test_contributions_add_up(models, kind, n):
    model, row = models[kind, n], 7
    found = contributions(model, COLUMNS, row)
    columns = model.predict(COLUMNS)
    names = [name for name in columns if not name.endswith("_std")]
    assert [one.target for one in found] == names
    for one in found:
        assert one.prediction == pytest.approx(columns[one.target][row], rel=1e-9)
        np.testing.assert_allclose(one.values.sum(), one.value - one.average, rtol=1e-3)


def test_importance_is_of_all_quantiles_or_of_the_one_next_to_the_median(models):
    model = models["quantiles", 1]
    outputs = outputs_of(model, COLUMNS)
    found = permutation_importance(model, COLUMNS, Y, repeats=1)
    assert found.score == "pinball loss"
    assert found.baseline == pytest.approx(model.evaluate(COLUMNS, Y)["pinball loss"], rel=1e-9)
    assert (found.mean > 0).all()
    found = permutation_importance(model, COLUMNS, Y, score="r2", repeats=1)
    assert found.baseline == pytest.approx(metrics.r2_score(Y, outputs[:, 1]), rel=1e-9)
    [curve] = partial_dependence(model, COLUMNS, ["c"])
    assert curve.of == ("y_q0.1", "y_q0.5", "y_q0.9")
    changed = outputs_of(model, {**COLUMNS, "c": ["b"] * N})
    np.testing.assert_allclose(curve.mean[1], changed.mean(axis=0), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2])
def test_importance_is_of_the_mean_of_a_distribution(models, n):
    model = models["gaussian", n]
    y = Y if n == 1 else pa.table({"y": Y, "z": 5 - Y / 100})
    points = points_of(model.target, model.loss, outputs_of(model, COLUMNS))
    truth = Y if n == 1 else np.stack([Y, 5 - Y / 100], axis=1)
    found = permutation_importance(model, COLUMNS, y, repeats=1)
    assert found.baseline == pytest.approx(metrics.r2_score(truth, points), rel=1e-9)
    [curve] = partial_dependence(model, COLUMNS, ["c"])
    assert curve.of == model.target.names
    changed = outputs_of(model, {**COLUMNS, "c": ["b"] * N}).reshape(N, n, 2)[..., 0]
    np.testing.assert_allclose(curve.mean[1], changed.mean(axis=0), rtol=1e-9)


# Files


@pytest.mark.parametrize("n", [1, 2])
@KIND
def test_files(models, kind, n, tmp_path):
    model = models[kind, n]
    expected = model.predict(COLUMNS)
    model.save(tmp_path / "m.safetensors")
    again = Model.load(tmp_path / "m.safetensors")
    assert again.loss == model.loss
    for name, values in again.predict(COLUMNS).items():
        np.testing.assert_array_equal(values, expected[name])
    model.export(tmp_path / "m.py")
    found = runpy.run_path(str(tmp_path / "m.py"))["predict"](COLUMNS)
    assert [*found] == [*expected]
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2])
@KIND
def test_onnx(models, kind, n):
    pytest.importorskip("onnx", reason="the graphs are of the package onnx")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the oracle")
    model = models[kind, n]
    session = runtime.InferenceSession(model.to_onnx().SerializeToString())
    names = [output.name for output in session.get_outputs()]
    expected = model.predict(COLUMNS)
    assert names == [*expected]
    for name, values in zip(names, session.run(None, model.inputs(COLUMNS)), strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=1e-6)


# Settings


def test_a_quantile_asks_for_its_loss():
    assert resolve(Settings(quantile=0.9), 100, 0).loss == "pinball"
    assert Settings(quantile=[0.1, np.float64(0.9)]).quantile == (0.1, 0.9)
    assert Settings(quantile=(0.3,)).quantile == 0.3
    assert loss_for(resolve(Settings(quantile=LEVELS), 100, 0)).levels == LEVELS


@pytest.mark.parametrize(
    ("quantile", "error", "message"),
    [
        ((0.9, 0.1), ValueError, "quantile must ascend, each level once, got 0.9, 0.1; in order: "
         "0.1, 0.9"),
        ((0.1, 1.0), ValueError, "quantile must be between 0 and 1, got 1.0"),
        ((), ValueError, "quantile must be one level or more, got none"),
        ((0.1, "b"), TypeError, "quantile must be between 0 and 1, got 'b'"),
    ],
)  # fmt: skip
def test_levels_that_are_none_are_refused(quantile, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Settings(quantile=quantile)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="^quantile is for numbers, and the target has 3 classes; "
                       "leave it out, or set task to regression$"):  # fmt: skip
        resolve(Settings(quantile=0.5), 100, 3)
    with pytest.raises(ValueError, match="^loss 'gaussian' is not for classification with 2 class"):
        resolve(Settings(loss="gaussian"), 100, 2)
    with pytest.raises(ValueError, match="loss 'gaussian' has no parameter 'quantile'"):
        loss_for(resolve(Settings(loss="gaussian", quantile=0.5), 100, 0))
    own = Loss("own", squared_error, outputs=3)
    with pytest.raises(
        ValueError, match="^loss 'own' has 3 outputs for each target, and a table h"
    ):
        loss_for(resolve(Settings(loss=own), 100, 0))


def test_columns_of_one_name_are_refused():
    two = pa.table({"y": Y, "y_std": Y + 1})
    message = "two columns of predictions would be called 'y_std', as a target is; rename it"
    with pytest.raises(ValueError, match=f"^{message}$"):
        fitted(COLUMNS, two, name="y, y_std", loss="gaussian")
    assert fitted(COLUMNS, two, name="y, y_std").target.names == ("y", "y_std")


def test_a_loss_of_ones_own():
    loss = Loss("twice", lambda Z, Y, w=None, *, xp: squared_error(Z, Y, w, xp=xp))
    own = fitted(COLUMNS, Y, loss=loss)
    assert own.settings["loss"] == "twice"
    known = fitted(COLUMNS, Y)
    np.testing.assert_allclose(outputs_of(own, COLUMNS), outputs_of(known, COLUMNS), rtol=1e-5)
    with pytest.raises(ValueError, match="a file cannot hold the loss 'twice'"):
        own.save("nowhere.safetensors")
