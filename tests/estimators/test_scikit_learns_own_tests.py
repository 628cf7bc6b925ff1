"""scikit-learn's tests of its own networks, as they are installed, run on ours: one import changed.

They are read when this module is loaded, and become tests of it, each by its name.
"""

import ast
from pathlib import Path

import pytest

from nnaccel import MLPClassifier

# Some distributions leave it out.
theirs = pytest.importorskip("sklearn.neural_network.tests")

pytestmark = [
    # What they warn about is theirs to check.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("one_thread"),
]

# The tests that reach into private names, which a drop-in need not have: test, name.
LEFT_OUT = {
    "test_gradient": "_loss_grad_lbfgs",
    "test_learning_rate_warmstart": "_optimizer",
    "test_adaptive_learning_rate": "_optimizer",
}

PATH = Path(theirs.__path__[0]) / "test_mlp.py"
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
OURS = "from nnaccel import MLPClassifier, MLPRegressor\n"
SOURCE = PATH.read_text(encoding="utf-8")
TESTS = {
    node.name: ast.get_source_segment(SOURCE, node)
    for node in ast.parse(SOURCE).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}

exec(compile(SOURCE.replace(IMPORT, OURS), str(PATH), "exec"), globals())
for name in LEFT_OUT:
    del globals()[name]


@pytest.fixture
def global_random_seed() -> int:
    """scikit-learn's fixture: the seed of a test that is to pass with any."""
    return 42


def test_all_of_them_are_here_and_test_our_classes():
    assert globals()["MLPClassifier"] is MLPClassifier
    assert SOURCE.count(IMPORT) == 1
    assert TESTS.keys() - globals().keys() == LEFT_OUT.keys()
    assert len(TESTS) > 30


@pytest.mark.parametrize(("test", "private"), LEFT_OUT.items())
def test_what_is_left_out_reads_a_private_name(test, private):
    assert f"mlp.{private}" in TESTS[test] or f"clf.{private}" in TESTS[test]
