"""The contestants on tables: functions (rows, seed, threads) -> a fit that returns predictions.

The parameters of the boosted trees are the tuned defaults of Holzmüller, Grinsztajn and Steinwart,
"Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular Data" (2024,
arXiv:2407.04491), which pytabkit calls XGB_TD, LGBM_TD and CatBoost_TD. They stop early on a fifth
of the training rows, by the log loss or the RMSE. A contestant imports its library itself.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.peers.tables.data import Rows, divide

Predict = Callable[[], np.ndarray]
Fit = Callable[[], Predict]
PATIENCE = 300  # trees without a better loss on the held-out fifth


def nnaccel(members: int | None) -> Callable[[Rows, int, int], Fit]:
    """Builds nnaccel with its defaults.   members: None: the default number."""

    def build(rows: Rows, seed: int, threads: int) -> Fit:
        from nnaccel import TableClassifier, TableRegressor

        kind = TableClassifier if rows.classes else TableRegressor
        return simple(kind(members=members, random_state=seed), rows)

    return build


def simple(model: Any, rows: Rows) -> Fit:
    """Fits an estimator to all training rows."""
    return lambda: predictions(model.fit(rows.X, rows.y), rows)


def predictions(model: Any, rows: Rows) -> Predict:
    """Predicts the test rows: probabilities of classes, or numbers."""
    return lambda: (model.predict_proba if rows.classes else model.predict)(rows.X_test)


def scikit_learn(rows: Rows, seed: int, threads: int) -> Fit:
    """Builds the MLP with its defaults. Numbers and their target are standardised, text one-hot."""
    from sklearn.compose import (
        TransformedTargetRegressor,
        make_column_selector,
        make_column_transformer,
    )
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    warnings.simplefilter("ignore", ConvergenceWarning)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    inputs = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
        sparse_threshold=0.0,
    )
    if rows.classes:
        return simple(make_pipeline(inputs, MLPClassifier(random_state=seed)), rows)
    net = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
    return simple(make_pipeline(inputs, net), rows)


def xgboost(rows: Rows, seed: int, threads: int) -> Fit:
    """Builds XGBoost, which accepts categories."""
    from xgboost import XGBClassifier, XGBRegressor

    if rows.classes:
        own: dict[str, Any] = {
            "learning_rate": 0.08, "max_depth": 6, "min_child_weight": 5e-6, "subsample": 0.65,
            "colsample_bylevel": 0.9,
        }  # fmt: skip
    else:
        own = {"learning_rate": 0.05, "max_depth": 9, "min_child_weight": 2.0, "subsample": 0.7}
    model = (XGBClassifier if rows.classes else XGBRegressor)(
        n_estimators=1000,
        reg_lambda=0.0,
        tree_method="hist",
        max_bin=256,
        early_stopping_rounds=PATIENCE,
        enable_categorical=True,
        random_state=seed,
        n_jobs=threads,
        **own,
    )
    return stopped(model, plain(rows), seed, verbose=False)


def lightgbm(rows: Rows, seed: int, threads: int) -> Fit:
    """Builds LightGBM, which accepts categories."""
    from lightgbm import LGBMClassifier, LGBMRegressor, early_stopping

    if rows.classes:
        own: dict[str, Any] = {
            "learning_rate": 0.04, "num_leaves": 50, "min_child_samples": 40, "subsample": 0.75,
        }  # fmt: skip
    else:
        own = {"learning_rate": 0.05, "num_leaves": 100, "min_child_samples": 3, "subsample": 0.7}
    model = (LGBMClassifier if rows.classes else LGBMRegressor)(
        n_estimators=1000,
        subsample_freq=1,
        min_child_weight=1e-7,
        max_bin=255,
        random_state=seed,
        n_jobs=threads,
        verbosity=-1,
        **own,
    )
    return stopped(model, plain(rows), seed, callbacks=[early_stopping(PATIENCE, verbose=False)])


def catboost(rows: Rows, seed: int, threads: int) -> Fit:
    """Builds CatBoost, where a missing value is a further category."""
    from catboost import CatBoostClassifier, CatBoostRegressor

    if rows.classes:
        own: dict[str, Any] = {
            "learning_rate": 0.08, "max_depth": 7, "random_strength": 0.8, "one_hot_max_size": 15,
            "leaf_estimation_iterations": 1,
        }  # fmt: skip
    else:
        own = {
            "learning_rate": 0.09, "max_depth": 9, "random_strength": 0.0, "one_hot_max_size": 20,
            "leaf_estimation_iterations": 20,
        }  # fmt: skip
    text = list(rows.X.select_dtypes("category").columns)
    frames = [frame.astype(dict.fromkeys(text, object)) for frame in (rows.X, rows.X_test)]
    for frame in frames:
        frame[text] = frame[text].fillna("missing")
    model = (CatBoostClassifier if rows.classes else CatBoostRegressor)(
        n_estimators=1000,
        l2_leaf_reg=1e-5,
        boosting_type="Plain",
        bootstrap_type="Bernoulli",
        subsample=0.9,
        max_bin=254,
        early_stopping_rounds=PATIENCE,
        cat_features=text,
        random_seed=seed,
        thread_count=threads,
        allow_writing_files=False,
        verbose=False,
        **own,
    )
    return stopped(model, rows._replace(X=frames[0], X_test=frames[1]), seed)


def plain(rows: Rows) -> Rows:
    """Renames the columns to c0, c1, ..., since XGBoost and LightGBM refuse some characters in
    names."""
    names = {name: f"c{i}" for i, name in enumerate(rows.X.columns)}
    frames = [frame.rename(columns=names) for frame in (rows.X, rows.X_test)]
    return rows._replace(X=frames[0], X_test=frames[1])


def stopped(model: Any, rows: Rows, seed: int, **options: Any) -> Fit:
    """Fits to four fifths of the training rows, and stops early by the others."""
    kept, held_out = divide(rows.y, rows.classes, seed)
    judges = [(rows.X.iloc[held_out], rows.y[held_out])]

    def fit() -> Predict:
        model.fit(rows.X.iloc[kept], rows.y[kept], eval_set=judges, **options)
        return predictions(model, rows)

    return fit


def pytabkit(name: str) -> Callable[[Rows, int, int], Fit]:
    """Builds one of pytabkit's networks, which holds out a fifth of the rows itself.

    It accepts no missing numbers: they become medians of the training rows.
    """

    def build(rows: Rows, seed: int, threads: int) -> Fit:
        import pytabkit

        kind = getattr(pytabkit, f"{name}_{'Classifier' if rows.classes else 'Regressor'}")
        middle = rows.X.median(numeric_only=True)
        filled = rows._replace(X=rows.X.fillna(middle), X_test=rows.X_test.fillna(middle))
        return simple(kind(device="cpu", random_state=seed, n_threads=threads), filled)

    return build


TREES = ("XGBoost", "LightGBM", "CatBoost")
CONTESTANTS: dict[str, Callable[[Rows, int, int], Fit]] = {
    "XGBoost": xgboost,
    "LightGBM": lightgbm,
    "CatBoost": catboost,
    "scikit-learn MLP": scikit_learn,
    "RealMLP-TD": pytabkit("RealMLP_TD"),
    "TabM-D": pytabkit("TabM_D"),
    "nnaccel single": nnaccel(1),
    "nnaccel": nnaccel(None),
}
LIBRARIES = {
    "XGBoost": "xgboost",
    "LightGBM": "lightgbm",
    "CatBoost": "catboost",
    "scikit-learn MLP": "sklearn",
    "RealMLP-TD": "pytabkit",
    "TabM-D": "pytabkit",
}


def installed(
    names: Sequence[str], find: Callable[[str], Any] = find_spec
) -> tuple[list[str], list[str]]:
    """Divides contestants into those that can run, and sentences about those that cannot."""
    can, cannot = [], []
    for name in names:
        library = LIBRARIES.get(name)
        if library and find(library) is None:
            cannot.append(f"{name} is left out: {library} is not installed.")
        else:
            can.append(name)
    return can, cannot
