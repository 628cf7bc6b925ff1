"""Built-in data, NPZ files and splits. Oracles: scikit-learn's loaders and generators."""

import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnaccel.tabular.datasets import NAMES, load, load_npz, split

BUNDLED = {"digits": 10, "breast_cancer": 2, "wine": 3, "iris": 3, "diabetes": 0}


@pytest.mark.parametrize(("name", "classes"), BUNDLED.items())
def test_bundled(name, classes):
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    data = load(name)
    np.testing.assert_array_equal(data.X, X)
    assert data.name == name
    assert len(data.feature_names) == X.shape[1]
    assert all(type(feature) is str for feature in data.feature_names)
    assert data.X_test is data.y_test is None
    assert data.task == ("classification" if classes else "regression")
    if classes:
        assert len(np.unique(data.y)) == classes
        pairs = set(zip(y.tolist(), data.y.tolist(), strict=True))
        assert len(pairs) == classes  # each class has one label
    else:
        np.testing.assert_array_equal(data.y, y)


def test_labels_are_names_where_there_are_some():
    pytest.importorskip("sklearn")
    assert load("iris").y[0] == "setosa"
    assert load("wine").y[-1] == "class_2"
    assert load("breast_cancer").y[0] == "malignant"
    assert load("digits").y[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "maker", "options"),
    [("moons", "make_moons", {}), ("circles", "make_circles", {"factor": 0.5})],
)
def test_generated_as_scikit_learn_does(monkeypatch, name, maker, options):
    """Without noise the points are those of scikit-learn."""
    make = getattr(pytest.importorskip("sklearn.datasets"), maker)
    X, y = make(1000, shuffle=False, noise=None, **options)
    noise = {"moons": 0.2, "circles": 0.1}[name]
    data = load(name)
    np.testing.assert_array_equal(data.y, y)
    residual = data.X - X
    assert abs(residual.mean()) < 4 * noise / np.sqrt(2000)
    assert residual.std() == pytest.approx(noise, rel=0.06)
    assert np.abs(residual).max() < 5 * noise


def test_planar_flower():
    data = load("planar", seed=3)
    assert data.X.shape == (400, 2)
    assert data.y.tolist() == [0] * 200 + [1] * 200
    radius = np.hypot(*data.X.T)
    assert radius.max() < 4 + 5 * 0.2
    # The course's equations, point by point; the order of the draws is all they leave open.
    rng = np.random.Generator(np.random.Philox(3))
    in_t, in_r = rng.standard_normal(400), rng.standard_normal(400)
    for i in (0, 57, 199, 200, 399):
        j, k = divmod(i, 200)
        t = 3.12 * j + 3.12 * k / 199 + 0.2 * in_t[i]
        r = 4 * np.sin(4 * t) + 0.2 * in_r[i]
        np.testing.assert_allclose(data.X[i], [r * np.sin(t), r * np.cos(t)], rtol=1e-12)


@pytest.mark.parametrize("name", ["moons", "circles", "planar"])
def test_seed_decides(name):
    np.testing.assert_array_equal(load(name, 1).X, load(name, 1).X)
    assert not np.array_equal(load(name, 1).X, load(name, 2).X)


def test_names():
    assert [*NAMES] == [*BUNDLED, "moons", "circles", "planar"]
    assert all(line and "\n" not in line for line in NAMES.values())
    for name in ("moons", "circles", "planar"):
        assert "\n" not in load(name).source
    with pytest.raises(ValueError, match="data set must be one of digits, .*; did you mean 'iris'"):
        load("irs")


# ---------------------------------------------------------------------------- NPZ files

X, Y = np.arange(12.0).reshape(6, 2), np.arange(6)


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=Y, other=1)
    data = load_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, Y)
    assert (data.name, data.task, data.target_name) == ("a", "auto", "y")
    assert data.feature_names == ("x0", "x1")
    assert data.X_test is data.y_test is None


def test_npz_with_a_test_set(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", X_train=X, y_train=Y, X_test=X[:2], y_test=Y[:2])
    data = load_npz(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.X_test, X[:2])
    np.testing.assert_array_equal(data.y_test, Y[:2])
    np.savez(tmp_path / "b.npz", X_train=X, y_train=Y)
    assert load_npz(tmp_path / "b.npz").X_test is None


def test_npz_flattens_images_and_columns(tmp_path):
    images = np.arange(48, dtype=np.uint8).reshape(6, 4, 2)
    np.savez(tmp_path / "a.npz", X=images, y=Y[:, None])
    data = load_npz(tmp_path / "a.npz")
    assert data.X.dtype == np.uint8
    np.testing.assert_array_equal(data.X[1], np.arange(8, 16))
    np.testing.assert_array_equal(data.y, Y)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": X, "labels": Y}, r"has no array X, y; expected X, y or .*, found data, labels"),
        ({"X": X}, "has no array y; expected .*, found X$"),
        ({}, "has no array X, y; .*, found none"),
        ({"X_train": X, "y_train": Y, "X_test": X}, "has no array y_test; expected"),
        (
            {"X": X, "y": Y[:5]},
            r"y must have one value for each row of X, so shape \(6,\), got \(5,",
        ),
        ({"X": X, "y": np.eye(6)}, r"y must have one value .* got \(6, 6\)"),
        (
            {"X": Y, "y": Y},
            r"X must be \(n_samples, n_features\), got shape \(6,\); .*X\[:, None\]",
        ),
        ({"X": X[:0], "y": Y[:0]}, r"X must be .*, got shape \(0, 2\)"),
        ({"X": np.array([[{}]]), "y": [1]}, r"X is an array of objects, which is not .*X\.astype"),
        (
            {"X_train": X, "y_train": Y, "X_test": X[:, :1], "y_test": Y},
            "X_train has 2 columns and X_test 1; they must have the same",
        ),
    ],
)
def test_npz_that_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=r"a\.npz.* " + message):
        load_npz(tmp_path / "a.npz")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"text\.npz is no NPZ file, or is damaged; numpy\.savez"):
        load_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "a.npz", X=X, y=Y)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz is no NPZ file, or is damaged"):
        load_npz(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[whole.index(X.tobytes()) + 20] ^= 1
    (tmp_path / "bad.npz").write_bytes(flipped)
    with pytest.raises(
        ValueError, match=r"bad\.npz: X cannot be read as npy: Bad CRC.*; check that"
    ):
        load_npz(tmp_path / "bad.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"zip\.npz has no array X, y; .*, found readme\.txt"):
        load_npz(tmp_path / "zip.npz")
    with pytest.raises(FileNotFoundError, match=r"aa\.npz: no such file; did you mean 'a\.npz'"):
        load_npz(tmp_path / "aa.npz")
    with pytest.raises(IsADirectoryError):
        load_npz(tmp_path)


def npz_of(path, member, names=("X.npy", "y.npy")):
    """An NPZ file whose first array is any bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(names[0], member)
        with archive.open(names[1], "w") as file:
            np.save(file, Y)
    return path


def header_of(shape, dtype="'<f8'"):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            header_of((10**13, 2)) + bytes(96),
            r"X cannot be read as npy: float64 of shape .* is not",
        ),
        (header_of((2**63, 2**63)) + bytes(96), "float64 of shape .* is not what 96 bytes hold"),
        (header_of((6, 3)) + bytes(96), r"float64 of shape \(6, 3\) is not what 96 bytes hold"),
        (header_of((6, -2)) + bytes(96), "X cannot be read as npy"),
        (header_of("((((", "'<f8'") + bytes(96), "X cannot be read as npy"),
        (header_of((6, 2), "'O'") + bytes(96), "X is an array of objects, which is not loaded"),
        (header_of((6, 2), "[[['"), "X cannot be read as npy"),
        (b"\x93NUMPY\x03\x00" + bytes(200), "an array of version .3, 0., of records or unknown"),
        (b"hello", "X cannot be read as npy"),
        (b"", "X cannot be read as npy"),
    ],
)
def test_an_array_that_promises_what_is_not_there(tmp_path, member, message):
    """Its header is compared with the file before memory is asked for."""
    with pytest.raises(ValueError, match=message) as error:
        load_npz(npz_of(tmp_path / "a.npz", member))
    assert str(error.value).startswith(f"{tmp_path / 'a.npz'}: X ")
    assert "\n" not in str(error.value)


def test_an_npz_bomb(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((6, 10**6), "uint8"), y=Y)
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "1000000")
    with pytest.raises(ValueError, match=r"a\.npz becomes more than 1,000,000 bytes"):
        load_npz(tmp_path / "a.npz")
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "7000000")
    assert load_npz(tmp_path / "a.npz").X.shape == (6, 10**6)


def test_a_damaged_directory_of_a_zip_file(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.rindex(b"PK\x01\x02")] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as npz: Bad magic number"):
        load_npz(tmp_path / "a.npz")


def test_a_damaged_built_in_data_set(monkeypatch):
    datasets = pytest.importorskip("sklearn.datasets")

    def damaged():
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    monkeypatch.setattr(datasets, "load_digits", damaged)
    with pytest.raises(ValueError, match="the file of scikit-learn's load_digits cannot be read"):
        load("digits")


# ---------------------------------------------------------------------------- splits


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=80),
    st.floats(0.05, 0.95),
    st.integers(0, 9),
    st.booleans(),
)
def test_split_is_a_partition_of_the_stated_size(y, fraction, seed, stratify):
    y = np.array(y)
    kept = len(np.unique(y)) if stratify else 1
    n_test = round(fraction * len(y))
    if not 0 < n_test <= len(y) - kept:
        with pytest.raises(ValueError, match=r"cannot split .* choose another fraction"):
            split(y, fraction, seed, stratify)
        return
    train, test = split(y, fraction, seed, stratify)
    assert len(test) == n_test
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(y)))
    if stratify:
        np.testing.assert_array_equal(np.unique(y[train]), np.unique(y))
    for one, other in zip(split(y, fraction, seed, stratify), (train, test), strict=True):
        np.testing.assert_array_equal(one, other)


def test_split_gives_each_class_its_share():
    y = np.repeat(["rare", "some", "many"], [10, 90, 900])
    _, test = split(np.random.default_rng(0).permutation(y), 0.2)
    assert np.unique(y[test], return_counts=True)[1].sum() == 200
    shuffled = np.random.default_rng(0).permutation(y)
    _, counts = np.unique(shuffled[test], return_counts=True)
    np.testing.assert_allclose(counts, [180, 2, 18], atol=1)


def test_split_depends_on_the_seed_and_is_even():
    y = np.repeat([0, 1], 50)
    often = np.zeros(100)
    for seed in range(400):
        often[split(y, 0.25, seed)[1]] += 1
    # Each row is drawn with probability 1/4: 100 times of 400, give or take five sigma of 8.7.
    assert np.abs(often - 100).max() < 45
    assert not np.array_equal(split(y, 0.25, 0)[1], split(y, 0.25, 1)[1])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_of_no_fraction(fraction):
    with pytest.raises(
        ValueError, match="fraction must be between 0 and 1, got .*; for example 0.2"
    ):
        split(np.arange(10), fraction)
