"""Where examples come from: a built-in data set or a file, as features and a target."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.files import existing_file
from nnaccel.tabular.datasets import DATASETS, load, load_npz
from nnaccel.tabular.tables import pop_target, read_table


class Examples(NamedTuple):
    """Examples: `data` a pyarrow table or a matrix (N, D), `y` (N,) or None where there is none.

    names: of the columns of a matrix.   test: (data, y) where the source has test data.
    """

    source: str
    data: Any
    y: Any
    target: str
    names: tuple[str, ...] | None
    task: str
    test: tuple[Any, Any] | None

    @property
    def pixels(self) -> bool:
        """Whether these are images: a matrix of bytes."""
        return isinstance(self.data, np.ndarray) and self.data.dtype == np.uint8


def read(source: str, target: str | None = None, *, need_target: bool = True) -> Examples:
    """The examples of a built-in data set, an NPZ file or a table.

    target: the column of a table; the others have theirs. Without `need_target` a table may lack
    it, or not be told, and y is then None.
    ValueError or FileNotFoundError that name what is wrong and the closest thing that is right;
    OSError for a pipe or a device; MemoryError.
    """
    if source in DATASETS:
        return _from_dataset(load(source), target if need_target else None)
    path = Path(source)
    if not path.suffix and not path.exists():
        raise FileNotFoundError(
            f"{source!r} is neither a file nor one of the built-in data sets "
            f"{', '.join(DATASETS)}{did_you_mean(source, DATASETS)}"
        )
    if existing_file(path).suffix.lower() == ".npz":
        return _from_dataset(load_npz(path), target if need_target else None)
    table, name = read_table(path), Path(path.name.removesuffix(".gz")).stem
    if not need_target and (target is None or target not in table.column_names):
        return Examples(name, table, None, target or "", None, "auto", None)
    try:
        table, y, target = pop_target(table, target)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Examples(name, table, y, target, None, "auto", None)


def take(data: Any, rows: np.ndarray) -> Any:
    """The rows with those numbers of a table, a column or an array."""
    return data[rows] if isinstance(data, np.ndarray) else data.take(rows)


def _from_dataset(dataset: Any, target: str | None) -> Examples:
    if target is not None and target != dataset.target_name:
        raise ValueError(
            f"{dataset.name!r} has the target {dataset.target_name!r}, and no {target!r}"
        )
    test = None if dataset.X_test is None else (dataset.X_test, dataset.y_test)
    return Examples(
        dataset.name,
        dataset.X,
        dataset.y,
        dataset.target_name,
        tuple(dataset.feature_names),
        dataset.task,
        test,
    )
