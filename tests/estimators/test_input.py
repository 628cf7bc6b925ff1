"""What X, y and sample_weight may be: numbers, which stay what they are in every dtype."""

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.datasets import load_iris

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.devices.device import select, to_host
from nnaccel.estimators.labels import beside

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("one_thread"),
]

X, Y = load_iris(return_X_y=True)
PAIR, LABELS = (Y > 0) * 1, np.stack([Y > 0, Y > 1], axis=1) * 1
FIRST = np.datetime64("2026-01-01")
DAYS = FIRST + Y.astype("timedelta64[D]")


@pytest.fixture(params=[False, True], ids=["plain", "dispatch"])
def dispatch(request):
    with sklearn.config_context(array_api_dispatch=request.param):
        yield request.param


# ---------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "labels", [[5_000_000_000, 7, 9], [2.0**40, 2.0**40 + 1, 3.0], [2**63 + 5, 2**63, 1]]
)
def test_labels_too_large_for_jax_stay_with_numpy(jax_of_32_bits, labels):
    labels = np.array(labels, dtype=np.uint64 if max(labels) > 2**62 else None)
    x = jax_of_32_bits.asarray(X, "float32")
    clf = MLPClassifier(random_state=0, max_iter=100, learning_rate_init=0.02).fit(x, labels[Y])
    assert type(clf.classes_) is np.ndarray
    np.testing.assert_array_equal(clf.classes_, np.sort(labels))
    found = clf.predict(x)
    assert type(found) is np.ndarray
    assert set(found.tolist()) <= set(labels.tolist())
    assert clf.score(x, labels[Y]) > 0.9
    assert clf.partial_fit(x, labels[Y]).score(x, labels[Y]) > 0.9


def test_small_labels_go_with_the_arrays_as_before(jax_of_32_bits):
    x = jax_of_32_bits.asarray(X, "float32")
    clf = MLPClassifier(max_iter=2).fit(x, Y)
    for array in (clf.classes_, clf.predict(x)):
        assert array.dtype == jax_of_32_bits.xp.int32


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64", "U3", "object", "datetime64[D]"])
def test_labels_of_every_kind_are_predicted_as_they_are(xp_device, dispatch, kind):
    if kind == "object":
        labels = np.array(["a", "b", "c"], dtype=object)
    else:
        labels = np.arange(3).astype(kind)
    x = xp_device.asarray(X)
    clf = MLPClassifier(random_state=0, max_iter=60, learning_rate_init=0.02).fit(x, labels[Y])
    found = to_host(clf.predict(x))
    # As scikit-learn has it, of which older versions leave text as it is.
    assert found.dtype in ([labels.dtype] if kind[0] in "ud" else [labels.dtype, "U1"])
    assert (found == labels[Y]).mean() > 0.9
    if kind[0] == "u":
        assert clf.score(x, labels[Y]) > 0.9


def test_labels_learned_with_numpy_are_exact_in_predictions_for_jax(jax_of_32_bits):
    labels = np.array([5_000_000_000, 6_000_000_000, 7_000_000_000])
    clf = MLPClassifier(random_state=0, max_iter=5).fit(X, labels[Y])
    found = clf.predict(jax_of_32_bits.asarray(X, "float32"))
    np.testing.assert_array_equal(found, clf.predict(X))
    np.testing.assert_array_equal(clf.to("jax:cpu").classes_, labels)
    np.testing.assert_array_equal(clf.predict(X), found)


def test_labels_that_a_library_cannot_pick_from_stay():
    torch = pytest.importorskip("torch")
    where = select("torch:cpu")
    assert type(beside(np.array([1, 2], np.uint16), where)) is np.ndarray
    assert type(beside(np.array([1, 2], np.uint8), where)) is torch.Tensor


# ---------------------------------------------------------------------- numbers that overflow

FORMS = {"dense": lambda a: a, "sparse": sp.csr_array, "list": lambda a: a.tolist()}


def told_of(estimator, x, y):
    """The message of each method that predicts for x."""
    names = ["predict", "predict_proba", "predict_log_proba", "score"]
    for name in names if isinstance(estimator, MLPClassifier) else ["predict", "score"]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the caller reads it)
            getattr(estimator, name)(x, *([y] if name == "score" else []))
        yield str(caught.value)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("y", [Y, PAIR, LABELS, Y * 1.0], ids=["classes", "two", "labels", "y"])
def test_X_is_finite_in_the_dtype_of_the_network(xp_device, dispatch, activation, y):
    cls = MLPRegressor if y.dtype.kind == "f" else MLPClassifier
    net = cls(activation=activation, dtype="float32", max_iter=2, random_state=0)
    net.fit(xp_device.asarray(X), xp_device.asarray(y))
    large = X.copy()
    large[7, 1] = 1e39
    for message in told_of(net, xp_device.asarray(large), xp_device.asarray(y)):
        assert message == (
            "Input X contains infinity or a value too large for dtype('float32'), in which this "
            f"{cls.__name__} computes; scale X, or fit with dtype='float64'"
        )
    large[7, 1] = 1e300  # as it was before: finite as float64, also where its square is not
    wide = cls(activation=activation, max_iter=2, random_state=0).fit(xp_device.asarray(X), y)
    wide.predict(xp_device.asarray(large))


@pytest.mark.parametrize("form", FORMS)
def test_in_every_form(form):
    net = MLPClassifier(dtype="float32", max_iter=2).fit(X, Y)
    large = FORMS[form](np.where(X.max() == X, 1e39, X))
    for message in told_of(net, large, Y):
        assert message.startswith("Input X contains infinity or a value too large for dtype")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.where(X.max() == X, 1e39, X))
    for message in told_of(net, frame, Y):
        assert message.startswith("Input X contains infinity or a value too large for dtype")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("y", [Y, PAIR, LABELS, Y * 1.0], ids=["classes", "two", "labels", "y"])
def test_outputs_that_overflow_are_no_predictions(xp_device, y, dtype):
    cls = MLPRegressor if y.dtype.kind == "f" else MLPClassifier
    net = cls(activation="identity", dtype=dtype, max_iter=2, random_state=0)
    net.fit(xp_device.asarray(X), xp_device.asarray(y))
    net.coefs_ = [100.0 * W for W in net.coefs_]
    large = X.copy()
    large[7] = 0.9 * float(np.finfo(dtype).max)
    remedy = ", or fit with dtype='float64'" if dtype == "float32" else ""
    for message in told_of(net, xp_device.asarray(large), xp_device.asarray(y)):
        assert message == (
            f"Row 7 of X gives {cls.__name__} outputs that are not finite in {dtype}: its numbers "
            f"are too large for the network; scale X as it was for fit{remedy}"
        )


def test_large_numbers_that_fit_are_predicted():
    net = MLPClassifier(dtype="float32", max_iter=2, random_state=0, activation="tanh").fit(X, Y)
    for large in (1e30, 3e38):  # their squares are beyond float32, and their sum may be
        P = net.predict_proba(np.full((100, 4), large))
        np.testing.assert_array_equal(P, net.predict_proba(np.full((100, 4), large, np.float32)))
        assert np.isfinite(P).all()


def test_columns_of_a_table_and_reversed_rows_are_checked_without_a_copy():
    net = MLPClassifier(max_iter=2, random_state=0).fit(X, Y)
    wide = np.repeat(X, 3, axis=1)
    for view in (wide[:, ::3], np.asfortranarray(X), X[::-1][::-1]):
        np.testing.assert_array_equal(net.predict(view), net.predict(X))
    wide[3, 3] = np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        net.predict(wide[:, ::3])


# ---------------------------------------------------------------------- kinds

MASKED = " is a masked array, whose hidden numbers would count like the others; fill them, "
DATES = " must hold numbers, got dates or durations; count them in a unit"
DENSE = "y must be a dense array of numbers, got "


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X": np.ma.masked_greater(X, 5.0)}, f"X{MASKED}X.filled"),
        ({"y": np.ma.masked_equal(Y, 1)}, f"y{MASKED}y.filled"),
        ({"w": np.ma.masked_less(X[:, 0], 5.0)}, f"sample_weight{MASKED}sample_weight.filled"),
        ({"X": FIRST + (10 * X).astype("timedelta64[h]")}, f"X{DATES}"),
        ({"X": (10 * X).astype("timedelta64[h]")}, f"X{DATES}"),
        ({"w": DAYS}, f"sample_weight{DATES}"),
        ({"X": X + 0j}, "Complex data not supported"),
        ({"y": Y + 0j}, "Complex data not supported"),
        ({"w": Y + 0j}, "Complex data not supported"),
        ({"X": sp.csr_array(X + 0j)}, "Complex data not supported"),
        ({"X": np.full((150, 4), "a")}, "could not convert string to float"),
        ({"w": np.full(150, "a")}, "could not convert string to float"),
        ({"X": np.where(X > 5, None, X)}, "Input X contains NaN"),
        ({"X": sp.coo_array(X[:, 0])}, "Expected 2D"),
        ({"X": X[0]}, "Expected 2D array, got 1D array"),
        ({"w": Y[:, None]}, "Sample weights must be 1D"),
    ],
)
def test_what_would_lose_its_meaning_is_refused(cls, given, message):
    given = {"X": X, "y": Y, "w": None} | given
    with pytest.raises(ValueError, match="^" + message.replace("(", "[(]")):
        cls(max_iter=1).fit(given["X"], given["y"], given["w"])
    if given["X"] is not X:
        with pytest.raises(ValueError, match="^" + message.replace("(", "[(]")):
            cls(max_iter=1).fit(X, Y).predict(given["X"])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (DAYS, f"y{DATES}"),
        (DAYS - FIRST, f"y{DATES}"),
        (Y.astype(str), f"{DENSE}dtype <U21; use "),
        (Y.astype(bytes), f"{DENSE}dtype |S21; use "),
        (sp.csr_array(LABELS), f"{DENSE}csr_array; use y.toarray()"),
        (sp.coo_matrix(LABELS), f"{DENSE}csr_matrix; use y.toarray()"),
        (np.array([1.0, None, 2.0] * 50, dtype=object), "Input y contains NaN or infinity."),
    ],
)
def test_targets_of_a_regressor_are_numbers(y, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its beginning is compared)
        MLPRegressor(max_iter=1).fit(X, y)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
def test_sparse_matrices_of_every_form(form, kind):
    x = getattr(sp, f"{form}_{kind}")(X)
    expected = MLPClassifier((5,), max_iter=2, random_state=0).fit(X, Y).predict_proba(X)
    clf = MLPClassifier((5,), max_iter=2, random_state=0).fit(x, Y)
    np.testing.assert_allclose(clf.predict_proba(x), expected, atol=1e-12)
    assert clf.partial_fit(x, Y).score(x, Y) == clf.score(X, Y)


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_are_named(layout):
    torch = pytest.importorskip("torch")
    x = getattr(torch.asarray(X), layout)()
    message = f"X must be a dense tensor or a sparse matrix of SciPy, got a tensor with {x.layout}"
    with pytest.raises(ValueError, match=message.replace("with ", "with layout ")):
        MLPClassifier().fit(x, Y)


def test_frames_with_dates_are_refused_and_nullable_numbers_read():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "when": pandas.to_datetime(DAYS)})
    for given in (frame, frame[["when"]]):
        with pytest.raises(ValueError, match=f"^X{DATES}"):
            MLPClassifier().fit(given, Y)
    whole = pandas.DataFrame({"a": Y, "b": Y[::-1]}).astype("Int64")
    clf = MLPClassifier(max_iter=2, random_state=0).fit(whole, Y)
    same = MLPClassifier(max_iter=2, random_state=0).fit(whole.to_numpy(float), Y)
    np.testing.assert_array_equal(clf.coefs_[0], same.coefs_[0])


def test_a_mask_that_hides_nothing_and_labels_that_are_dates_are_welcome():
    clf = MLPClassifier(max_iter=60, random_state=0).fit(np.ma.array(X), DAYS)
    assert clf.predict(X).dtype == DAYS.dtype
    np.testing.assert_array_equal(clf.classes_, FIRST + np.arange(3).astype("timedelta64[D]"))


def test_a_tensor_with_a_gradient_is_read_without_a_warning():
    torch = pytest.importorskip("torch")
    x = torch.asarray(X).requires_grad_()
    clf = MLPClassifier(max_iter=2, random_state=0).fit(x, Y)
    assert clf.predict_proba(x).shape == (150, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((X[:, :3], Y), "X has 3 features, but MLPClassifier is expecting 4"),
        ((np.ma.masked_greater(X, 5.0), Y), f"X{MASKED}"),
        ((X, Y + 7), "y contains previously unseen labels"),
        ((X, Y, np.zeros(150)), ""),
        ((X, Y[:-1]), "Found input variables with inconsistent numbers of samples"),
    ],
)
def test_validation_data_are_named(given, message):
    with pytest.raises(ValueError, match=f"^validation_data: {message}"):
        MLPClassifier(max_iter=1).fit(X, Y, validation_data=given)
