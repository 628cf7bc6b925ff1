"""Data sets that need no download, NPZ files, and the split into training and test rows.

The real ones are scikit-learn's bundled copies; moons, circles and the flower are generated.
"""

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, ZipInfo, is_zipfile

import numpy as np
from numpy.lib import format as npy

from nnaccel.arguments import find
from nnaccel.files import Unreadable, check_expansion, existing_file, reading
from nnaccel.tabular.tables import import_extra, listing


class Dataset(NamedTuple):
    """A data set.  X: (N, D).  y: (N,) labels or numbers.  X_test, y_test: None if not split.

    task: "classification", "regression", or "auto" to decide by the target.   source: one line that
    says where the data come from.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray | None
    y_test: np.ndarray | None
    feature_names: tuple[str, ...]
    target_name: str
    task: str
    source: str


def load(name: str, seed: int = 0) -> Dataset:
    """The built-in data set of that name (`NAMES`). `seed` seeds those that are generated.

    Labels with names are strings, digits are integers. Raises ValueError for an unknown name, which
    lists the known names and suggests the closest. Only scikit-learn's data sets need scikit-learn.
    """
    entry = find("data set", name, DATASETS)
    X, y, feature_names = entry.make(seed)
    return Dataset(
        name, X, y, None, None, feature_names, entry.target_name, entry.task, entry.source
    )


# ---------------------------------------------------------------------------- generated


def moons(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles, 500 points each, with Gaussian noise of 0.2.

    The same shapes as scikit-learn's make_moons.
    """
    t = np.linspace(0, np.pi, 500)
    upper = np.stack([np.cos(t), np.sin(t)], axis=1)
    lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)
    X = np.concatenate([upper, lower])
    return X + 0.2 * rng.standard_normal(X.shape), np.repeat([0, 1], 500)


def circles(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A circle of radius 1 around one of radius 0.5, 500 points each, Gaussian noise of 0.1.

    The same shapes as scikit-learn's make_circles.
    """
    t = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], axis=1)
    X = np.concatenate([circle, 0.5 * circle])
    return X + 0.1 * rng.standard_normal(X.shape), np.repeat([0, 1], 500)


def planar(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The planar flower, X = (r sin t, r cos t) with r = 4 sin(4 t), in two classes of 200 points.

    Class j has t = linspace(3.12 j, 3.12 (j + 1)); both t and r have Gaussian noise of 0.2.
    Source: A. Ng, Neural Networks and Deep Learning, week 3, planar data classification.
    """
    t = np.concatenate([np.linspace(3.12 * j, 3.12 * (j + 1), 200) for j in (0, 1)])
    t += 0.2 * rng.standard_normal(400)
    r = 4 * np.sin(4 * t) + 0.2 * rng.standard_normal(400)
    return np.stack([r * np.sin(t), r * np.cos(t)], axis=1), np.repeat([0, 1], 200)


# ---------------------------------------------------------------------------- the table


class Entry(NamedTuple):
    """A row of `DATASETS`.  make: seed -> (X, y, feature names)."""

    make: Callable[[int], tuple[np.ndarray, np.ndarray, tuple[str, ...]]]
    task: str
    target_name: str
    description: str
    source: str


def _bundled(loader: str) -> Callable:
    """One of scikit-learn's data sets. Classes are named where they have names."""

    def make(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        load = getattr(import_extra("sklearn.datasets"), loader)
        with reading(f"the file of scikit-learn's {loader}", "a data set"):
            bunch = load()
        names = np.asarray(bunch.get("target_names", ()))
        y = names[bunch.target] if names.dtype.kind == "U" else bunch.target
        X = bunch.data.astype(np.uint8) if "images" in bunch else bunch.data  # pixels are bytes
        return X, y, tuple(map(str, bunch.feature_names))

    return make


def _generated(function: Callable) -> Callable:
    def make(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        return *function(np.random.Generator(np.random.Philox(seed))), ("x0", "x1")

    return make


DATASETS = {
    "digits": Entry(
        _bundled("load_digits"),
        "classification",
        "digit",
        "1,797 handwritten digits of 8 × 8 pixels, 10 classes",
        "Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; scikit-learn",
    ),
    "breast_cancer": Entry(
        _bundled("load_breast_cancer"),
        "classification",
        "diagnosis",
        "569 tumours, 30 measurements, malignant or benign",
        "Wolberg, Mangasarian and Street (1995), Breast Cancer Wisconsin, UCI; scikit-learn",
    ),
    "wine": Entry(
        _bundled("load_wine"),
        "classification",
        "cultivar",
        "178 wines, 13 chemical measurements, 3 cultivars",
        "Aeberhard and Forina (1991), Wine, UCI; scikit-learn",
    ),
    "iris": Entry(
        _bundled("load_iris"),
        "classification",
        "species",
        "150 irises, 4 measurements, 3 species",
        "Fisher (1936), The use of multiple measurements in taxonomic problems; scikit-learn",
    ),
    "diabetes": Entry(
        _bundled("load_diabetes"),
        "regression",
        "progression",
        "442 patients, 10 measurements, progression of the disease after a year",
        "Efron, Hastie, Johnstone and Tibshirani (2004), Least Angle Regression; scikit-learn",
    ),
    "moons": Entry(
        _generated(moons),
        "classification",
        "class",
        "1,000 points in two interleaved half circles (generated)",
        "generated, as scikit-learn's make_moons with noise 0.2",
    ),
    "circles": Entry(
        _generated(circles),
        "classification",
        "class",
        "1,000 points in two concentric circles (generated)",
        "generated, as scikit-learn's make_circles with noise 0.1 and factor 0.5",
    ),
    "planar": Entry(
        _generated(planar),
        "classification",
        "class",
        "400 points in the petals of a flower, 2 classes (generated)",
        "generated, as in A. Ng, Neural Networks and Deep Learning, week 3",
    ),
}
NAMES = {name: entry.description for name, entry in DATASETS.items()}
"""The built-in data sets, each with one line that describes it."""


# ---------------------------------------------------------------------------- NPZ files


def load_npz(path: str | Path) -> Dataset:
    """The arrays X, y or X_train, y_train, X_test, y_test of an NPZ file; others are ignored.

    X: (N, ...), further axes (images) are flattened to (N, D).   y: (N,) or (N, 1). Raises
    FileNotFoundError or IsADirectoryError with the closest name; OSError for a pipe or a device;
    MemoryError; ValueError for a file that is not NPZ, is damaged or expands too much, and for
    arrays that are absent, hold objects (pickles are never loaded) or have shapes that do not fit.
    """
    path = existing_file(path)
    with reading(path, "npz"), open(path, "rb") as content:
        if not is_zipfile(content):
            raise Unreadable(
                f"{path} is no NPZ file, or is damaged; numpy.savez(path, X=X, y=y) writes one"
            )
        file = ZipFile(content)
        members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        names = _names(members, path)
        check_expansion(path, sum(members[name].file_size for name in names))
        arrays = [_read_array(file, members[name], name, path) for name in names]
    X, y = _pair(names[:2], arrays[:2], path)
    X_test, y_test = _pair(names[2:], arrays[2:], path) if len(names) > 2 else (None, None)
    if X_test is not None and X.shape[1] != X_test.shape[1]:
        raise ValueError(
            f"{path}: X_train has {X.shape[1]:,} columns and X_test {X_test.shape[1]:,}; "
            "they must have the same"
        )
    columns = tuple(f"x{i}" for i in range(X.shape[1]))
    return Dataset(path.stem, X, y, X_test, y_test, columns, "y", "auto", str(path))


def _names(found: Iterable[str], path: Path) -> list[str]:
    """The names of the arrays to read, among the names in the file."""
    names = ["X_train", "y_train"] if "X_train" in found else ["X", "y"]
    if names[0] == "X_train" and ("X_test" in found or "y_test" in found):
        names += ["X_test", "y_test"]
    if absent := [name for name in names if name not in found]:
        raise Unreadable(
            f"{path} has no array {listing(absent)}; expected X, y or X_train, y_train and "
            f"perhaps X_test, y_test, found {listing(found) or 'none'}"
        )
    return names


def _read_array(file: ZipFile, member: ZipInfo, name: str, path: Path) -> np.ndarray:
    """The array of that name. Its header is checked first, since it may state a size that the file
    does not have."""
    with reading(f"{path}: {name}", "npy"):
        with file.open(member) as content:
            version = npy.read_magic(content)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            if version not in read_header:
                raise ValueError(f"an array of version {version}, of records or unknown")
            shape, _, dtype = read_header[version](content)
            length = member.file_size - content.tell()
        if dtype.hasobject:
            raise Unreadable(
                f"{path}: {name} is an array of objects, which is not loaded because it could run "
                f"code; save it as numbers or text, for example {name}.astype(float)"
            )
        if prod(shape) * dtype.itemsize != length:
            raise ValueError(f"{dtype} of shape {shape} is not what {length:,} bytes hold")
        with file.open(member) as content:
            return npy.read_array(content, allow_pickle=False)


def _pair(names: list[str], arrays: list[np.ndarray], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """X as (N, D) and y as (N,), with the same N > 0."""
    (X_name, y_name), (X, y) = names, arrays
    if X.ndim < 2 or not X.size:
        raise ValueError(
            f"{path}: {X_name} must be (n_samples, n_features), got shape {X.shape}; "
            f"for a single feature use {X_name}[:, None]"
        )
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or len(y) != len(X):
        raise ValueError(
            f"{path}: {y_name} must have one value for each row of {X_name}, so shape "
            f"({len(X)},), got {y.shape}"
        )
    return X.reshape(len(X), -1), y


# ---------------------------------------------------------------------------- splitting


def split(
    y: np.ndarray, fraction: float, seed: int = 0, stratify: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Random row indices (train, test), each ascending, with round(fraction * N) in the test.

    stratify: every class has its share of the test rows. At least one row of each class stays in
    training, so a class may have a single row.
    The same seed gives the same split. Raises ValueError for a fraction outside (0, 1), and for one
    that leaves a part without rows (or, stratified, training without a class).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}; for example 0.2")
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(y))
    n_test, kept = round(fraction * len(y)), 1
    if stratify:
        classes, code = np.unique(y, return_inverse=True)
        order = order[np.argsort(code[order], kind="stable")]
        # The first row of each class stays in training; the others are still sorted by class.
        first = np.unique(code[order], return_index=True)[1]
        order, kept = np.delete(order, first), len(classes)
    if not 0 < n_test <= len(y) - kept:
        raise ValueError(
            f"cannot split {len(y):,} rows into {len(y) - n_test:,} for training and {n_test:,} "
            f"to hold out, with at least {kept:,} and 1; choose another fraction or add rows"
        )
    # Systematic sampling: evenly spaced places, so that each class gets its share.
    step = np.arange(len(order) + 1) * n_test // len(order)
    test = np.sort(order[np.diff(step) > 0])
    return np.setdiff1d(np.arange(len(y)), test), test
