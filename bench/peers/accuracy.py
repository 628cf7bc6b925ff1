"""Compares test scores of the estimators with scikit-learn's, in a Markdown table.

    python bench/peers/accuracy.py [--seeds 10] [--only wine digits]
        [--adult-train FILE --adult-test FILE] [--california FILE]

Data, parameters, seeds and the split are the same for both. A row is good if the mean of nnaccel is
no worse than scikit-learn's mean minus its standard error. Adult (income) and California housing
(MedHouseVal) are read from CSV files; the others come with scikit-learn.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets, neural_network
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import nnaccel
from bench.shared.script import run


class Problem(NamedTuple):
    """Data, split and scaled, and the parameters of the networks besides their defaults."""

    name: str
    estimator: str
    parameters: dict[str, Any]
    X: Any
    y: Any
    X_test: Any
    y_test: Any


def bundled(name: str, load: Callable[..., Any], estimator: str, **parameters: Any) -> Problem:
    X, y = load(return_X_y=True)
    return split(name, estimator, parameters, X, y)


def split(name: str, estimator: str, parameters: dict[str, Any], X: Any, y: Any) -> Problem:
    """Holds out a quarter of the rows for the test, stratified by class if there are classes, and
    scales inputs."""
    strata = y if estimator == "MLPClassifier" else None
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=strata)
    scaler = StandardScaler().fit(X)
    return Problem(
        name, estimator, parameters, scaler.transform(X), y, scaler.transform(X_test), y_test
    )


def adult(train: Path, test: Path) -> Problem:
    """Census income: numbers scaled, text one-hot, the official test set."""
    import pandas as pd

    frames = [pd.read_csv(path, skipinitialspace=True) for path in (train, test)]
    target = frames[0].columns[-1]
    y, y_test = (frame.pop(target).astype(str).str.rstrip(".") for frame in frames)
    columns = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (
            make_pipeline(
                SimpleImputer(strategy="constant", fill_value="missing"),
                OneHotEncoder(handle_unknown="ignore"),
            ),
            make_column_selector(dtype_exclude="number"),
        ),
        sparse_threshold=0.0,
    )
    X, X_test = columns.fit_transform(frames[0]), columns.transform(frames[1])
    return Problem("adult", "MLPClassifier", {"max_iter": 20}, X, y, X_test, y_test)


def california(path: Path) -> Problem:
    table = np.genfromtxt(path, delimiter=",", skip_header=1)
    return split("california", "MLPRegressor", {"max_iter": 40}, table[:, :-1], table[:, -1])


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    known = {
        "digits": lambda: bundled("digits", datasets.load_digits, "MLPClassifier"),
        "breast_cancer": lambda: bundled(
            "breast_cancer", datasets.load_breast_cancer, "MLPClassifier"
        ),
        "wine": lambda: bundled("wine", datasets.load_wine, "MLPClassifier"),
        "diabetes": lambda: bundled(
            "diabetes", datasets.load_diabetes, "MLPRegressor", max_iter=1000
        ),
    }
    if options.adult_train and options.adult_test:
        known["adult"] = lambda: adult(options.adult_train, options.adult_test)
    if options.california:
        known["california"] = lambda: california(options.california)
    for name, build in known.items():
        if not options.only or name in options.only:
            yield build()


def scores(library: Any, problem: Problem, seeds: int) -> np.ndarray:
    """The test score of each seed."""
    found = []
    for seed in range(seeds):
        net = getattr(library, problem.estimator)(random_state=seed, **problem.parameters)
        found.append(net.fit(problem.X, problem.y).score(problem.X_test, problem.y_test))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--adult-train", type=Path)
    parser.add_argument("--adult-test", type=Path)
    parser.add_argument("--california", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| data | score | scikit-learn | its standard error | nnaccel | difference |")
    print("|---|---|---|---|---|---|")
    for problem in problems(options):
        theirs = scores(neural_network, problem, options.seeds)
        ours = scores(nnaccel, problem, options.seeds)
        error = theirs.std(ddof=1) / np.sqrt(options.seeds)
        kind = "accuracy" if problem.estimator == "MLPClassifier" else "R²"
        print(
            f"| {problem.name} | {kind} | {theirs.mean():.4f} | {error:.4f} | {ours.mean():.4f} "
            f"| {ours.mean() - theirs.mean():+.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
