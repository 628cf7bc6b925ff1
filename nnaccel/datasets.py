"""Data sets: those that need no network, NPZ files, and splitting into train and test.

The real ones are scikit-learn's bundled copies; moons, circles and the flower are generated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from nnaccel.names import did_you_mean, find
from nnaccel.tables import COMPLETE, existing_file, import_extra, listing


class Dataset(NamedTuple):
    """A data set.  X: (N, D).  y: (N,) labels or numbers.  X_test, y_test: None if not split.

    task: "classification", "regression", or "auto" where the target is to decide.
    source: one line that says where the data come from.
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
    """The built-in data set of that name (`NAMES`); `seed` draws those that are generated.

    ValueError for another name lists them and suggests the closest.
    """
    about = find("data set", name, DATASETS)
    return about.make(name, about, seed)


# ---------------------------------------------------------------------------- generated


def moons(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles, 500 points each, with Gaussian noise of 0.2.

    As scikit-learn's make_moons.
    """
    t = np.linspace(0, np.pi, 500)
    upper = np.stack([np.cos(t), np.sin(t)], axis=1)
    lower = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], axis=1)
    X = np.concatenate([upper, lower])
    return X + 0.2 * rng.standard_normal(X.shape), np.repeat([0, 1], 500)


def circles(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A circle of radius 1 around one of radius 0.5, 500 points each, Gaussian noise of 0.1.

    As scikit-learn's make_circles.
    """
    t = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], axis=1)
    X = np.concatenate([circle, 0.5 * circle])
    return X + 0.1 * rng.standard_normal(X.shape), np.repeat([0, 1], 500)


def planar(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The planar flower: petals r = 4 sin(4 t) that belong to two classes by turns, 200 points each.

    Class j has t = linspace(3.12 j, 3.12 (j + 1)) with noise of 0.2, which r has too;
    X = (r sin t, r cos t).
    Source: A. Ng, Neural Networks and Deep Learning, week 3, planar data classification.
    """
    t = np.concatenate([np.linspace(3.12 * j, 3.12 * (j + 1), 200) for j in (0, 1)])
    t += 0.2 * rng.standard_normal(400)
    r = 4 * np.sin(4 * t) + 0.2 * rng.standard_normal(400)
    return np.stack([r * np.sin(t), r * np.cos(t)], axis=1), np.repeat([0, 1], 200)


def _generate(name: str, about: "About", seed: int) -> Dataset:
    X, y = globals()[name](np.random.Generator(np.random.Philox(seed)))
    return Dataset(name, X, y, None, None, ("x0", "x1"), "class", about.task, about.source)


def _bundled(name: str, about: "About", seed: int) -> Dataset:
    bunch = getattr(import_extra("sklearn.datasets"), f"load_{name}")()
    y = bunch.target
    if about.task == "classification" and bunch.target_names.dtype.kind == "U":
        y = bunch.target_names[y]
    names = tuple(map(str, bunch.feature_names))
    return Dataset(name, bunch.data, y, None, None, names, about.target, about.task, about.source)
