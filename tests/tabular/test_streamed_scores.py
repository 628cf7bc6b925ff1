"""Scores that are added up batch by batch are those of all rows at once."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scores need scikit-learn (the extra [cli])")
from nnaccel.tabular.scores import scores_of
from nnaccel.tabular.several_targets import Targets
from nnaccel.tabular.streamed.scores import Scores
from nnaccel.tabular.targets import Target

N = 5000
RNG = np.random.default_rng(0)
RANKED = ("ROC AUC", "average precision")  # of rounded probabilities


def compared(target, outputs, y, weights, **options):
    expected = scores_of(target, outputs, y, weights=weights, **options)
    found = Scores(target, **options)
    Y = target.encode(y)
    for start in range(0, N, 700):
        part = slice(start, start + 700)
        found.add(outputs[part], Y[part], None if weights is None else weights[part])
    result = found.result()
    approximate = {"pinball loss of always the quantile"}
    assert [*result] == [name for name in expected if name not in approximate]
    for name, value in result.items():
        if isinstance(value, float):
            rel = 1e-3 if name.endswith(RANKED) else 1e-9
            assert value == pytest.approx(expected[name], rel=rel), name
        elif isinstance(value, dict):
            for inner, values in value.items():
                assert values == pytest.approx(expected[name][inner]), inner
        else:
            np.testing.assert_allclose(value, expected[name])


@pytest.mark.parametrize("weights", [None, RNG.uniform(0, 3, N)], ids=["plain", "weighted"])
@pytest.mark.parametrize("K", [2, 3, 25])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_of_classes(K, weights, threshold):
    if threshold is not None and K > 2:
        return
    target = Target("classification", "y", tuple(f"c{i:02}" for i in range(K)))
    Z = RNG.standard_normal((N, K)) * 2
    codes = (Z + RNG.gumbel(size=(N, K))).argmax(axis=1)
    P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    options = {} if threshold is None else {"threshold": threshold}
    compared(target, P, np.array(target.classes)[codes], weights, **options)


@pytest.mark.parametrize("weights", [None, RNG.uniform(0, 3, N)], ids=["plain", "weighted"])
@pytest.mark.parametrize("quantile", [None, 0.9])
def test_of_numbers(weights, quantile):
    target = Target("regression", "y", (), 1e6, 30.0)
    truth = 1e6 + 30 * RNG.standard_normal(N)
    options = {} if quantile is None else {"quantile": quantile}
    compared(target, truth + RNG.standard_normal(N), truth, weights, **options)


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_of_several_targets(kind):
    import pyarrow as pa

    if kind == "numbers":
        targets = Targets(tuple(Target("regression", n, (), 2.0, 3.0) for n in "ab"))
        y = {n: RNG.standard_normal(N) for n in "ab"}
        outputs = np.stack([y["a"] + 0.1, y["b"] * 0.9], axis=1)
    else:
        targets = Targets(tuple(Target("classification", n, ("n", "y")) for n in "ab"))
        outputs = RNG.uniform(size=(N, 2))
        drawn = RNG.uniform(size=(N, 2)) < outputs
        y = {n: np.where(drawn[:, i], "y", "n") for i, n in enumerate("ab")}
    compared(targets, outputs, pa.table(y), RNG.uniform(0, 3, N))
