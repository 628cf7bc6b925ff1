"""What scikit-learn's user guide shows of neural networks, small, with only the import changed.

Each test runs the same code on both packages; what the guide wants to show must be to be seen.
"""

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.datasets import load_digits, load_iris, make_circles, make_classification, make_moons
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import nnaccel

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
both = pytest.mark.parametrize("package", [neural_network, nnaccel], ids=["sklearn", "nnaccel"])


@both
def test_varying_regularisation(package):
    """A larger alpha gives a smoother boundary: worse on the training data, smaller weights."""
    problems = [
        make_moons(noise=0.3, random_state=0),
        make_circles(noise=0.2, factor=0.5, random_state=1),
        make_classification(
            n_features=2, n_redundant=0, n_informative=2, random_state=0, n_clusters_per_class=1
        ),
    ]
    for X, y in problems:
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=42)
        fits, sizes = [], []
        for alpha in np.logspace(-1, 2, 3):
            clf = make_pipeline(
                StandardScaler(),
                package.MLPClassifier(
                    solver="lbfgs",
                    alpha=alpha,
                    random_state=1,
                    max_iter=200,
                    early_stopping=True,
                    hidden_layer_sizes=[10, 10],
                ),
            ).fit(X_train, y_train)
            grid = np.stack(np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9)), axis=-1)
            assert clf.predict_proba(grid.reshape(-1, 2))[:, 1].shape == (81,)
            fits.append(clf.score(X_train, y_train))
            sizes.append(sum(float((W**2).sum()) for W in clf[-1].coefs_))
            assert clf.score(X_test, y_test) > 0.3
        assert fits[0] >= fits[-1]
        assert sizes[0] > sizes[1] > sizes[2]


STRATEGIES = {
    "constant": {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.2},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.2},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.2},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0,
                   "learning_rate_init": 0.2},
    "adam": {"solver": "adam", "learning_rate_init": 0.01},
}  # fmt: skip


@both
@pytest.mark.parametrize("data", [load_iris, load_digits])
def test_comparing_stochastic_strategies(package, data):
    """Momentum and Adam reach a lower loss than plain descent, and a falling rate a higher one."""
    X, y = data(return_X_y=True)
    X = MinMaxScaler().fit_transform(X)[:250]
    losses = {}
    for name, options in STRATEGIES.items():
        mlp = package.MLPClassifier(random_state=0, max_iter=15, **options).fit(X, y[:250])
        assert len(mlp.loss_curve_) == mlp.n_iter_ <= 15
        losses[name] = mlp.loss_
        assert 0.0 <= mlp.score(X, y[:250]) <= 1.0
    assert losses["nesterov"] < losses["constant"] < losses["invscaling"]
    assert losses["momentum"] < losses["constant"]
    assert losses["adam"] < losses["constant"]


@both
def test_looking_at_the_weights_of_a_network_of_digits(package):
    """The first layer's weights are images, one for each hidden unit, on one scale."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16.0, y, random_state=0, test_size=0.7)
    mlp = package.MLPClassifier(
        hidden_layer_sizes=(40,),
        max_iter=8,
        alpha=1e-4,
        solver="sgd",
        verbose=False,
        random_state=1,
        learning_rate_init=0.2,
        batch_size=50,
    ).fit(X_train, y_train)
    assert mlp.score(X_train, y_train) > 0.9
    assert mlp.score(X_test, y_test) > 0.85
    low, high = mlp.coefs_[0].min(), mlp.coefs_[0].max()
    images = [unit.reshape(8, 8) for unit in mlp.coefs_[0].T[:16]]
    assert len(images) == 16
    assert all(low <= image.min() <= image.max() <= high for image in images)


@both
def test_the_first_page(package):
    X, y = [[0.0, 0.0], [1.0, 1.0]], [0, 1]
    clf = package.MLPClassifier(
        solver="lbfgs", alpha=1e-5, hidden_layer_sizes=(5, 2), random_state=1
    ).fit(X, y)
    assert clf.predict([[2.0, 2.0], [-1.0, -2.0]]).tolist() == [1, 0]
    assert [coef.shape for coef in clf.coefs_] == [(2, 5), (5, 2), (2, 1)]
    labels = package.MLPClassifier(
        solver="lbfgs", alpha=1e-5, hidden_layer_sizes=(15,), random_state=1
    ).fit(X, [[0, 1], [1, 1]])
    assert labels.predict([[1.0, 2.0]]).tolist() == [[1, 1]]
    assert labels.predict([[0.0, 0.0]]).tolist() == [[0, 1]]
