"""What `train` is given: kinds of numbers, numbers that are finite, targets in range, weights."""

import math
from decimal import Decimal

import numpy as np
import pytest

from nnaccel.devices.device import Device, select, to_host
from nnaccel.maths import losses
from nnaccel.maths.losses import Loss, Targets
from nnaccel.maths.network import mlp
from nnaccel.training import array_checks
from nnaccel.training import data as data_module
from nnaccel.training.array_checks import check_all_finite, real_array
from nnaccel.training.data import HostData, class_weights, put
from nnaccel.training.gradients import value_and_grad
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

N, D = 40, 3
CPU = select("cpu")


def inputs(dtype="float64"):
    return np.random.default_rng(0).standard_normal((N, D)).astype(dtype)


def trained(X, Y, loss="squared_error", outputs=1, **options):
    """The loss after two epochs."""
    options = {"epochs": 2, "batch_size": 16, **options}
    return [e.loss for e in train(mlp(D, [4], outputs), X, Y, loss=loss, **options)][-1]


def refusal(X, Y, *args, **options):
    """What a run says before its first epoch is asked for."""
    network = mlp(D, [4], options.pop("outputs", 1))
    with pytest.raises((ValueError, TypeError)) as raised:
        train(network, X, Y, *args, **{"loss": "squared_error", **options})
    return f"{type(raised.value).__name__}: {raised.value}"


# Numbers that are not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_of_x_that_is_not_finite_is_named_with_its_place(xp_device, value, dtype):
    X, Y = inputs(dtype), np.zeros(N)
    X[7, 2] = value
    said = refusal(xp_device.asarray(X), xp_device.asarray(Y))
    assert said == (
        f"ValueError: X must be finite, got {value} in row 7, column 2 (both from 0); fill it, or "
        "leave out the row"
    )


def test_a_target_that_is_not_finite_is_named_with_its_place(xp_device):
    X, Y = inputs("float32"), np.zeros((N, 2), "float32")
    Y[39, 1] = math.nan
    assert refusal(xp_device.asarray(X), xp_device.asarray(Y), outputs=2).startswith(
        "ValueError: Y must be finite, got nan in row 39, column 1 (both from 0)"
    )
    Y = xp_device.asarray(np.where(np.arange(N) == 3, np.float32(np.inf), 0))
    assert "Y must be finite, got inf in row 3, column 0" in refusal(xp_device.asarray(X), Y)


def test_the_arrays_of_validation_are_said_to_be_they():
    X, Y = inputs(), np.zeros(N)
    bad = np.where(np.arange(N)[:, None] == 5, np.nan, X)
    assert refusal(X, Y, validation_data=(bad, Y)).startswith(
        "ValueError: validation_data: X must be finite, got nan in row 5, column 0 (both from 0)"
    )
    said = refusal(X, Y, validation_data=(X, Y.astype(complex)))
    assert said.startswith("TypeError: validation_data: Y must hold real numbers, got complex")
    labels = np.arange(N) % 2
    options = {"loss": "binary_cross_entropy", "validation_data": (X, labels * 2 - 1)}
    assert refusal(X, labels, **options) == (
        "ValueError: validation_data: Y must hold probabilities from 0 to 1 for "
        "'binary_cross_entropy', got -1 to 1; for labels -1 and 1 use (Y + 1) / 2"
    )


@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_what_is_too_large_for_the_dtype_is_told_from_what_was_infinite(device):
    if device != "cpu":
        pytest.importorskip(device)
    X, Y = inputs(), np.zeros(N)
    X[2, 1] = 1e39
    options = {"device": device, "dtype": "float32"}
    assert refusal(X, Y, **options) == (
        "ValueError: X must be finite, and 1e+39 in row 2, column 1 (both from 0) is too large for "
        "float32; scale it, or train in float64"
    )
    assert refusal(inputs(), np.full(N, -1e39), **options) == (
        "ValueError: Y must be finite, and -1e+39 in row 0, column 0 (both from 0) is too large "
        "for float32; scale it, or train in float64"
    )
    X[2, 1] = math.inf
    assert "X must be finite, got inf in row 2" in refusal(X, Y, **options)


def test_large_numbers_whose_squares_overflow_are_finite(xp_device):
    """1e30 in float32, 1e200 in float64: the sum of squares is infinite, and nothing is wrong."""
    for dtype, large in (("float32", 1e30), ("float64", 1e200)):
        X = xp_device.asarray(np.full((N, D), large, dtype))
        data = put(mlp(D, [], 1), losses.get("squared_error"), xp_device.device, dtype, X, X[:, 0])
        np.testing.assert_array_equal(to_host(data.X), to_host(X))


def test_the_first_of_many_is_found_behind_a_million_numbers():
    X = np.full((600_000, D), 1e30, np.float32)
    X[500_001, 1] = X[500_002, 0] = np.nan
    with (
        np.errstate(over="ignore"),
        pytest.raises(ValueError, match="X must be finite, got nan in row 500001, column 1 "),
    ):
        check_all_finite("X", X, X, CPU)


@pytest.mark.parametrize("place", [(0, 0), (9, 2), (10, 0), (39, 2)])
def test_sums_are_taken_in_parts(monkeypatch, place):
    monkeypatch.setattr(array_checks, "PART", 30)
    X = inputs("float32")
    check_all_finite("X", X, X, CPU)
    X[place] = np.nan
    with pytest.raises(ValueError, match=f"in row {place[0]}, column {place[1]} "):
        check_all_finite("X", X, X, CPU)


def test_a_sparse_matrix_may_have_more_room_than_numbers():
    sp = pytest.importorskip("scipy.sparse")
    X = sp.csr_matrix(np.eye(D))
    X.data, X.indices = np.append(X.data, np.nan), np.append(X.indices, 0)
    check_all_finite("X", X, X, CPU)


def test_integers_need_no_look(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(data_module, "check_all_finite", never)
    assert math.isfinite(trained(np.arange(N * D).reshape(N, D) % 5, np.arange(N) % 3 / 4))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil"])
@pytest.mark.parametrize("form", ["matrix", "array"])
def test_a_number_of_a_sparse_matrix_that_is_not_finite_is_named(kind, form):
    sp = pytest.importorskip("scipy.sparse")
    X = np.where(inputs() > 0, inputs(), 0.0)
    X[5] = X[6] = 0.0  # rows without numbers, before and after
    X[7, 2] = np.nan
    sparse = getattr(sp, f"{kind}_{form}")
    assert refusal(sparse(X), np.zeros(N)).startswith(
        "ValueError: X must be finite, got nan in row 7, column 2 (both from 0)"
    )
    X[7, 2] = 1e39
    assert refusal(sparse(X), np.zeros(N), dtype="float32").startswith(
        "ValueError: X must be finite, and 1e+39 in row 7, column 2 (both from 0) is too large"
    )


def test_data_on_the_host_and_in_a_file_are_looked_at_too(monkeypatch, tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "float32", (N, D))
    X[...] = inputs("float32")
    X.flush()
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)
    data = put(mlp(D, [], 1), losses.get("squared_error"), CPU, "float32", mapped, np.zeros(N))
    assert isinstance(data, HostData)
    assert np.shares_memory(data.X, mapped)
    assert trained(mapped, np.zeros(N)) == trained(inputs("float32"), np.zeros(N))
    X[39, 2] = np.inf
    X.flush()
    assert "got inf in row 39, column 2" in refusal(mapped, np.zeros(N))


def test_the_gradient_on_arrays_looks_as_well():
    network = mlp(D, [4], 1)
    X = np.where(np.arange(N)[:, None] == 5, np.nan, inputs())
    with pytest.raises(ValueError, match="X must be finite, got nan in row 5, column 0"):
        value_and_grad(network, "squared_error", initialize(network), X, np.zeros(N))


# Targets in the range of their loss

RANGES = [
    (
        "binary_cross_entropy",
        [-1, 1],
        "from 0 to 1",
        "-1 to 1; for labels -1 and 1 use (Y + 1) / 2",
    ),
    ("binary_cross_entropy", [1, 2], "from 0 to 1", "1 to 2; for labels 1 and 2 use Y - 1"),
    ("binary_cross_entropy", [-1, -1], "from 0 to 1", "-1 to -1; for labels -1 and 1 use"),
    (
        "binary_cross_entropy",
        [2.5e5, 3e5],
        "from 0 to 1",
        "250000 to 300000; use 'softmax",
    ),
    (
        "binary_cross_entropy",
        [0, 3],
        "from 0 to 1",
        "0 to 3; use 'softmax_cross_entropy' for classes",
    ),
    ("poisson", [3, -2], "of at least 0", "-2 to 3; use a loss of that range, such as 'squared_e"),
    ("poisson", [0, -1e-7], "of at least 0", "-1e-07 to 0; use a loss of that range"),
]


@pytest.mark.parametrize(("loss", "values", "expected", "found"), RANGES)
def test_targets_out_of_range_are_refused_with_the_remedy(xp_device, loss, values, expected, found):
    Y = xp_device.asarray(np.resize(np.array(values), N))
    kind = "numbers" if loss == "poisson" else "probabilities"
    assert refusal(xp_device.asarray(inputs()), Y, loss=loss).startswith(
        f"ValueError: Y must hold {kind} {expected} for '{loss}', got {found}"
    )


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "poisson"])
def test_the_remedies_train(loss):
    labels = np.arange(N) % 2
    expected = trained(inputs(), labels, loss)
    for Y in (labels.astype(bool), (2 * labels - 1 + 1) / 2, labels + 1 - 1, labels[:, None]):
        assert trained(inputs(), Y, loss) == expected


def probabilities():
    P = np.random.default_rng(1).random((N, 3))
    return P / P.sum(axis=1, keepdims=True)


def test_rows_of_probabilities_that_do_not_sum_to_1_are_refused(xp_device):
    X, P = xp_device.asarray(inputs()), probabilities()
    P[4] *= 5.0
    options = {"loss": "softmax_cross_entropy", "outputs": 3}
    assert refusal(X, xp_device.asarray(P), **options) == (
        "ValueError: Y must hold probabilities from 0 to 1 for 'softmax_cross_entropy', got "
        f"{P.min():g} to {P.max():g}; divide each row by its sum, or use 'binary_cross_entropy' "
        "for several labels at once"
    )
    several = np.resize(np.array([1.0, 0.0, 1.0]), (N, 3))
    several[:6] = [1.0, 0.0, 0.0]
    assert refusal(X, xp_device.asarray(several), **options) == (
        "ValueError: Y must hold probabilities that sum to 1 in every row for "
        "'softmax_cross_entropy', got a sum of 2 in row 6 (from 0); divide each row by its sum, or "
        "use 'binary_cross_entropy' for several labels at once"
    )
    negative = np.resize(np.array([1.5, -0.5, 0.0]), (N, 3))
    assert "got -0.5 to 1.5; use a loss of that range, such as 'squared_error'" in refusal(
        X, xp_device.asarray(negative), **options
    )


def test_rounded_probabilities_are_probabilities():
    P = np.random.default_rng(2).dirichlet(np.full(1000, 0.1), N)
    rounded = (P.astype("float32").view("uint32") + 0x8000 & 0xFFFF0000).view("float32")
    assert np.abs(rounded.sum(axis=1) - 1).max() > 1e-4  # as in bfloat16
    for Y in (P.astype("float32"), P.astype("float16"), rounded):
        assert math.isfinite(trained(inputs(), Y, "softmax_cross_entropy", 1000, epochs=1))
    above = np.where(np.arange(N) % 2, 1 + 2.0**-52, -1e-17)
    assert math.isfinite(trained(inputs(), above, "binary_cross_entropy"))


def test_a_tensor_of_bfloat16_trains_on_every_device():
    torch = pytest.importorskip("torch")
    one_hot = np.eye(3)[np.arange(N) % 3]
    X, Y = (torch.tensor(x, dtype=torch.bfloat16) for x in (inputs(), one_hot))
    found = trained(X, Y, "softmax_cross_entropy", 3)
    assert trained(X, Y, "softmax_cross_entropy", 3, device="cpu") == pytest.approx(found, rel=1e-5)


def test_a_loss_of_ones_own_states_the_range_of_its_targets():
    angle = Loss("angle", losses.squared_error, targets=Targets("numbers", -180.0, 180.0))
    debt = Loss("debt", losses.squared_error, targets=Targets("numbers", high=0.0))
    assert refusal(inputs(), np.linspace(0, 360, N), loss=angle) == (
        "ValueError: Y must hold numbers from -180 to 180 for 'angle', got 0 to 360; use a loss of "
        "that range, such as 'squared_error'"
    )
    assert "Y must hold numbers of at most 0 for 'debt', got 1 to 1; " in refusal(
        inputs(), np.ones(N), loss=debt
    )
    assert math.isfinite(trained(inputs(), np.linspace(-180, 180, N), angle))
    assert math.isfinite(trained(inputs(), np.zeros(N), debt))


@pytest.mark.parametrize(
    ("values", "outputs", "found"),
    [
        ([1, 2, 3], 3, "0 to 2, .*, got 1 to 3; for class numbers from 1 use Y - 1"),
        ([-1, 1], 2, r"0 to 1, .*, got -1 to 1; for labels -1 and 1 use \(Y \+ 1\) // 2"),
        (
            [0, 5_000_000_000],
            3,
            r"0 to 2, .*, got 0 to 5000000000; number .*: numpy\.unique\(Y, ret",
        ),
        (
            np.array([0, 2**63], np.uint64),
            3,
            "0 to 2, .*, got 0 to 9223372036854775808; number them from 0",
        ),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_class_numbers_out_of_range_are_refused_with_the_remedy(device, values, outputs, found):
    if device != "cpu":
        pytest.importorskip(device)
    Y = np.resize(np.array(values), N)
    options = {"loss": "softmax_cross_entropy", "outputs": outputs, "device": device}
    with pytest.raises(ValueError, match=f"Y must hold classes from {found}"):
        raise ValueError(refusal(inputs(), Y, **options))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "uint64", ">i8"])
@pytest.mark.parametrize("device", ["cpu", "torch", "jax"])
def test_class_numbers_of_every_type_train_alike(device, dtype):
    if device != "cpu":
        pytest.importorskip(device)
    Y, options = np.arange(N) % 3, {"loss": "softmax_cross_entropy", "outputs": 3, "device": device}
    expected = trained(inputs(), Y, **options)
    assert trained(inputs(), Y.astype(dtype), **options) == expected


# Long integers


def test_long_integers_are_numbers_on_jax(jax_of_32_bits, monkeypatch):
    """As inputs, targets and rows to predict, each of which became another number."""
    X = np.arange(N * D).reshape(N, D) % 7 * 10**9
    network, loss = mlp(D, [], 1), losses.get("squared_error")
    params = initialize(network).astype("float32")
    expected = predict(network, params, X)
    sp = pytest.importorskip("scipy.sparse")
    for form in (X, X.astype("uint64"), sp.csr_matrix(X)):
        data = put(network, loss, jax_of_32_bits, "float32", form, X[:, 0])
        inside = data.X.toarray() if sp.issparse(data.X) else to_host(data.X)
        np.testing.assert_array_equal(inside, np.float32(X))
        np.testing.assert_array_equal(to_host(data.Y)[:, 0], np.float32(X[:, 0]))
        found = predict(network, jax_of_32_bits.asarray(params), form)
        np.testing.assert_allclose(to_host(found), expected, rtol=1e-5)
    # On the host, to be streamed.
    monkeypatch.setattr(data_module, "is_resident", lambda *_: False)
    data = put(network, loss, jax_of_32_bits, "float32", X, X[:, 0])
    np.testing.assert_array_equal(data.X, np.float32(X))
    short = put(network, loss, jax_of_32_bits, "float32", X // 10**9, X[:, 0])
    assert short.X.dtype == "int64"


# Weights


@pytest.mark.parametrize("scale", [1e-300, 5e-324, 1e-45, 1e38, 1e200, 1e307])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_any_size_count_as_they_do_beside_each_other(xp_device, scale, dtype):
    weights = np.where(np.arange(N) % 2, 3.0, 1.0)
    scaled = weights * scale
    data, expected = (
        put(
            mlp(D, [], 1),
            losses.get("squared_error"),
            xp_device.device,
            dtype,
            xp_device.asarray(inputs(dtype)),
            xp_device.asarray(np.zeros(N)),
            xp_device.asarray(w),
        )
        for w in (scaled, weights)
    )
    np.testing.assert_allclose(to_host(data.weights), to_host(expected.weights), rtol=1e-6)
    assert to_host(data.weights).mean() == pytest.approx(1.0)
    assert str(data.weights.dtype).endswith(dtype)


def test_a_weight_that_vanishes_beside_the_others_counts_nothing():
    weights = np.where(np.arange(N) == 0, 1e-300, 1e200)
    Y = np.where(np.arange(N) == 0, 5.0, inputs()[:, 0])
    data = put(mlp(D, [], 1), losses.get("squared_error"), CPU, "float32", inputs(), Y, weights)
    assert data.weights[0] == 0.0
    np.testing.assert_allclose(data.weights[1:], N / (N - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (np.where(np.arange(N) == 4, -1.0, 1.0), "got -1 in row 4 (from 0)"),
        (np.where(np.arange(N) == 4, np.nan, 1.0), "got nan in row 4 (from 0)"),
        (np.where(np.arange(N) == 4, np.inf, 1.0), "got inf in row 4 (from 0)"),
        (np.zeros(N), "got zeros only"),
    ],
)
def test_weights_that_make_no_sense_are_named(weights, found):
    said = refusal(inputs(), np.zeros(N), sample_weight=weights)
    assert said == (
        f"ValueError: sample_weight must be finite, not negative, and not all zero, {found}"
    )


def test_weights_of_classes_of_any_size():
    Y = np.array([0, 0, 1, 3])
    tiny = class_weights(Y, {0: 1e-300, 1: 2e-300, 3: 1e-300})
    data = put(
        mlp(D, [], 4), losses.get("softmax_cross_entropy"), CPU, "float32", inputs()[:4], Y, tiny
    )
    np.testing.assert_allclose(data.weights, [0.8, 0.8, 1.6, 0.8], rtol=1e-6)
    huge = np.array([0, 5_000_000_000])  # no table has so many rows
    assert class_weights(huge, "balanced").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("Y", "weighting", "message"),
    [
        (
            [0, 1],
            {1: math.nan},
            "class_weight must be finite and not negative, got nan for class 1",
        ),
        ([0, 1], {1: -2.0}, "class_weight must be finite and not negative, got -2 for class 1"),
        (
            [0, 1],
            {0: math.inf},
            "class_weight must be finite and not negative, got inf for class 0",
        ),
        ([0, 1], {0: 0, 1: 0}, "class_weight must not be 0 for all classes"),
        (
            [0.0, 1.0],
            "balanced",
            r"Y must hold integer classes \(N,\), got shape \(2,\) of float64",
        ),
        ([[0], [1]], "balanced", r"Y must hold integer classes \(N,\), got shape \(2, 1\)"),
    ],
)
def test_weights_of_classes_that_make_no_sense_are_named(Y, weighting, message):
    with pytest.raises(ValueError, match=message):
        class_weights(np.array(Y), weighting)


# Kinds

MASKED = np.ma.masked_less(inputs(), -1.0)
OBJECTS = np.array([[None, 1.0, 2.0]] * N, dtype=object)
DATES = np.full((N, D), np.datetime64("2020-01-01"))

KINDS = [
    (
        inputs() + 1j,
        "complex numbers (complex128); give {}.real and {}.imag as columns of their own",
    ),
    (DATES, "dates (datetime64[D]); count from one: ({} - {}.min()) / numpy.timedelta64(1, 'D')"),
    (
        DATES - DATES[0, 0],
        "durations (timedelta64[D]); count in a unit: {} / numpy.timedelta64(1, 's')",
    ),
    (
        inputs().astype(str),
        "text (<U32); encode categories; numpy.asarray({}, dtype=float) reads text",
    ),
    (inputs().astype("S8"), "text (|S8); encode categories"),
    (np.zeros(N, [("a", float)]), "records ([('a', '<f8')]); use numpy.lib.recfunctions.struct"),
    (
        OBJECTS,
        "objects (such as 'None', of type NoneType); use numpy.asarray({}, dtype=float) if they",
    ),
    (
        np.full((N, D), Decimal(1)),
        "objects (such as '1', of type Decimal); use numpy.asarray({}, dtype=float)",
    ),
    (np.full((N, D), "1", object), "text (<U1); encode categories"),
    (np.full((N, D), 1 + 2j, object), "complex numbers (complex128); give {}.real"),
]


@pytest.mark.parametrize(("x", "found"), KINDS)
@pytest.mark.parametrize("name", ["X", "Y", "sample_weight"])
def test_kinds_that_are_no_real_numbers_are_refused_with_the_remedy(name, x, found):
    given = {"X": inputs(), "Y": np.zeros(N), name: x}
    said = refusal(given.pop("X"), given.pop("Y"), **given)
    expected = found.replace("{}", name)
    assert said.startswith(f"TypeError: {name} must hold real numbers, got {expected}")


def test_masked_values_are_refused_and_the_remedies_train():
    assert MASKED.mask.any()
    expected = (
        " has masked values, which training would take for numbers; fill them, as by "
        "{0}.filled({0}.mean(axis=0)), or leave out the rows"
    )
    assert refusal(MASKED, np.zeros(N)) == "TypeError: X" + expected.format("X")
    assert refusal(inputs(), MASKED[:, 0]) == "TypeError: Y" + expected.format("Y")
    said = refusal(inputs(), np.zeros(N), sample_weight=np.abs(MASKED[:, 0]))
    assert said == "TypeError: sample_weight" + expected.format("sample_weight")
    filled = MASKED.filled(MASKED.mean(axis=0))
    assert (filled[MASKED.mask] > -1).all()
    assert math.isfinite(trained(filled, np.zeros(N)))
    # Where nothing is masked there is nothing to lose.
    whole = np.ma.MaskedArray(inputs(), mask=False)
    assert trained(whole, np.zeros(N)) == trained(inputs(), np.zeros(N))


def test_complex_numbers_and_sparse_tensors_of_other_libraries_are_refused():
    torch = pytest.importorskip("torch")
    X = torch.tensor(inputs())
    said = refusal(X + 1j, torch.zeros(N))
    assert said.startswith("TypeError: X must hold real numbers, got complex numbers (complex")
    assert refusal(X.to_sparse(), torch.zeros(N)) == (
        "TypeError: X must be dense, got a sparse tensor; use X.to_dense()"
    )


def test_objects_that_are_numbers_are_taken_for_them():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(N) % 2 > 0, "b": np.arange(N), "c": inputs()[:, 0]})
    assert np.asarray(frame).dtype == object
    plain = frame.to_numpy("float64")
    network = mlp(D, [4], 2)
    options = {"loss": "softmax_cross_entropy", "outputs": 2, "dtype": "float64"}
    Y = np.arange(N) % 2
    expected = trained(plain, Y, **options)
    assert trained(frame, pandas.Series(Y), **options) == expected
    assert trained(plain.tolist(), Y.astype(object), **options) == expected
    params = initialize(network)
    np.testing.assert_array_equal(predict(network, params, frame), predict(network, params, plain))
    gaps = frame.astype({"b": "Int64"})
    gaps.loc[3, "b"] = pandas.NA
    assert refusal(gaps, Y) == (
        "TypeError: X must hold real numbers, got objects (such as '<NA>', of type NAType); use "
        "numpy.asarray(X, dtype=float) if they are numbers"
    )


def test_rows_of_different_lengths_are_named():
    assert refusal([[1.0, 2.0], [1.0]], [0.0, 1.0]).startswith(
        "ValueError: X must be an array of numbers, got: setting an array element"
    )


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("form", ["matrix", "array"])
def test_sparse_matrices_of_every_kind_train_and_predict(kind, form):
    sp = pytest.importorskip("scipy.sparse")
    X = np.where(inputs() > 0, inputs(), 0.0)
    sparse = getattr(sp, f"{kind}_{form}")(X)
    assert trained(sparse, X[:, 0]) == pytest.approx(trained(X, X[:, 0], dtype="float32"), rel=1e-5)
    params = initialize(mlp(D, [4], 1))
    found = predict(mlp(D, [4], 1), params, sparse)
    np.testing.assert_allclose(found, predict(mlp(D, [4], 1), params, X), rtol=1e-12)


def test_what_is_sparse_and_no_x_and_what_is_sparse_and_no_numbers():
    sp = pytest.importorskip("scipy.sparse")
    column = sp.csr_matrix(np.ones((N, 1)))
    assert refusal(inputs(), column) == (
        "TypeError: Y must be dense, got csr_matrix; use Y.toarray()"
    )
    assert refusal(inputs(), np.zeros(N), sample_weight=column) == (
        "TypeError: sample_weight must be dense, got csr_matrix; use sample_weight.toarray()"
    )
    said = refusal(sp.csc_array(inputs() + 1j), np.zeros(N))
    assert said.startswith("TypeError: X must hold real numbers, got complex numbers (complex128)")


# Prediction


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (inputs() + 1j, TypeError, r"X must hold real numbers, got complex numbers \(complex128\)"),
        (MASKED, TypeError, "X has masked values"),
        (inputs().astype(str), TypeError, "X must hold real numbers, got text"),
        (DATES, TypeError, "X must hold real numbers, got dates"),
        (
            inputs()[0],
            ValueError,
            r"X must be \(n_samples, 3\) .* \(3,\); for one sample use X\[No",
        ),
    ],
)
def test_predictions_of_what_holds_no_numbers_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        predict(mlp(D, [4], 1), initialize(mlp(D, [4], 1)), X)


def test_a_row_with_a_number_that_is_not_finite_is_predicted_as_nan():
    X, network = inputs(), mlp(D, [4], 1, activation="tanh")
    X[3, 1] = np.nan
    found = predict(network, initialize(network), X)
    assert np.isnan(found[:, 0]).tolist() == [row == 3 for row in range(N)]


def test_arrays_that_are_numbers_pass_as_they_are(xp_device):
    for dtype in ("float32", "float64", "int64", "uint8", "bool"):
        x = xp_device.asarray(inputs().astype(dtype))
        assert real_array("X", x) is x


# The estimators, whose arrays scikit-learn has checked in another dtype


@pytest.mark.parametrize("method", ["fit", "partial_fit", "lbfgs", "early", "validation"])
def test_what_overflows_in_the_cast_is_found_in_estimators_too(method):
    pytest.importorskip("sklearn")
    from nnaccel.estimators import MLPRegressor

    options = {"dtype": "float32", "max_iter": 2}
    X, y, held = inputs(), inputs()[:, 0], {}
    bad = np.where(np.arange(N)[:, None] == 5, 1e39, X)
    if method == "lbfgs":
        options["solver"] = "lbfgs"
    elif method == "early":
        options["early_stopping"] = True
    elif method == "validation":
        X, bad, held = bad, X, {"validation_data": (bad, y)}
    network = MLPRegressor(**options)
    fit = network.partial_fit if method == "partial_fit" else network.fit
    with pytest.raises(
        ValueError, match=r"X must be finite, and 1e\+39 in row \d+, column 0 .* is"
    ):
        fit(bad, y, **held)


@pytest.mark.parametrize(("least", "resident"), [(10, True), (1, False)])
def test_data_are_resident_where_they_fit_on_the_devices_of_every_process(
    monkeypatch, least, resident
):
    """This one has 10 MiB free, of which 2 MB are less than 60 %."""
    asked = []
    monkeypatch.setattr(Device, "is_joined", property(lambda device: True))
    monkeypatch.setattr(Device, "memory_free", lambda device: 10 * 2**20)

    def of_all_processes(numbers):
        asked.append(numbers)
        return np.array([numbers, [least]])

    monkeypatch.setattr(data_module, "of_all_processes", of_all_processes)
    X, Y = np.zeros((50_000, 10), "float32"), np.zeros(50_000, "int32")
    monkeypatch.setattr(Device, "holds", lambda device, x: False)
    assert data_module.is_resident(select("cpu"), "float32", X, Y) is resident
    assert asked == [[10]]
