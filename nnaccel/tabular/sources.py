"""Reads examples, features and a target, from a built-in data set, a file, a database or a
query."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnaccel.arguments import did_you_mean
from nnaccel.files import STREAM, existing_file
from nnaccel.tabular import kinds
from nnaccel.tabular.columns import Column
from nnaccel.tabular.datasets import DATASETS, load, load_npz
from nnaccel.tabular.delimited import AS_IT_IS, Layout, Structure
from nnaccel.tabular.kinds import Reading, decimal_mark
from nnaccel.tabular.queries import database_of, is_query, read_database, run_query
from nnaccel.tabular.table_files import read_stream, read_table, suffix_of
from nnaccel.tabular.tables import checked, listing, pop_target


class Rows(NamedTuple):
    """Rows before their encoding.

    data: a table or a matrix (N, D).   y: the target, a column, or a table of several.   weights:
    how much each row counts (N,); None: all the same.
    """

    data: Any
    y: Any
    weights: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.y)

    def take(self, numbers: np.ndarray) -> "Rows":
        """The rows with those numbers."""
        weights = None if self.weights is None else self.weights[numbers]
        return Rows(take(self.data, numbers), take(self.y, numbers), weights)


class Examples(NamedTuple):
    """Examples: `data` is a pyarrow table or a matrix (N, D), `y` the target (N,), or None without
    one.

    names: of the columns of a matrix.   test: the test rows.   written: whether text of a target
    may be numbers, as in files; otherwise text is labels.   weights: how much each row counts (N,);
    None: all the same.   structure: the structure found in delimited text.
    """

    source: str
    data: Any
    y: Any
    target: str
    names: tuple[str, ...] | None
    task: str
    test: Rows | None
    written: bool = False
    weights: np.ndarray | None = None
    structure: Structure | None = None

    @property
    def rows(self) -> Rows:
        """The rows that are not test rows."""
        return Rows(self.data, self.y, self.weights)

    @property
    def pixels(self) -> bool:
        """Whether these are images: a matrix of bytes."""
        return isinstance(self.data, np.ndarray) and self.data.dtype == np.uint8


def read(
    source: str,
    target: str | Sequence[str] | None = None,
    *,
    need_target: bool = True,
    layout: Layout = AS_IT_IS,
) -> Examples:
    """The examples of a built-in data set, a file, a table of a database, or a query.

    source: the name of a data set; a file (see `table_files.read_table`, and .npz); a table of a
    DuckDB or SQLite file, "shop.duckdb:orders"; one SELECT that DuckDB answers, ``from
    'sales/*.parquet' where year > 2020``; "-", delimited text on standard input. Nothing is written
    to any of them.
    target: the column of a table, or several; data sets and .npz have a fixed one. Without
    `need_target` the target may be absent or not named, and y is then None.
    layout: of delimited text, where its content does not suggest it.
    Raises ValueError or FileNotFoundError that name the wrong value and the closest right one;
    OSError for a pipe or a device; MemoryError.
    """
    targets = (target,) if isinstance(target, str) else tuple(target or ())
    if source in DATASETS:
        return _from_dataset(load(source), targets if need_target else ())
    if is_query(source):
        table = checked(run_query(source), "the query")
        return _from_table("query", source, table, targets, need_target)
    if (database := database_of(source)) is not None:
        name, table = read_database(existing_file(database[0]), database[1])
        return _from_table(name, source, checked(table, source), targets, need_target)
    layout = layout._replace(names=layout.names or targets)
    if source == STREAM:
        if sys.stdin is None:
            raise OSError("standard input is closed; give it a file, or name the file")
        table, structure = read_stream(sys.stdin.buffer, "standard input", layout)
        return _of_text("stdin", source, table, structure, targets, need_target)
    path = Path(source)
    if not path.suffix and not path.exists():
        raise FileNotFoundError(
            f"{source!r} is neither a file nor one of the built-in data sets "
            f"{', '.join(DATASETS)}{did_you_mean(source, DATASETS)}"
        )
    if existing_file(path).suffix.lower() == ".npz":
        return _from_dataset(load_npz(path), targets if need_target else ())
    table, structure = read_table(path, layout)
    name = path.name[: -len(suffix_of(path))]
    return _of_text(name, source, table, structure, targets, need_target)


def _of_text(
    name: str,
    where: str,
    table: Any,
    structure: Structure | None,
    targets: tuple[str, ...],
    need_target: bool,
) -> Examples:
    """The examples of a file. An error about the target also says how the file was read."""
    try:
        examples = _from_table(name, where, table, targets, need_target)
    except ValueError as error:
        raise ValueError(f"{error}; {structure}" if structure else str(error)) from None
    return examples._replace(structure=structure)


def _from_table(
    name: str, where: str, table: Any, targets: tuple[str, ...], need_target: bool
) -> Examples:
    """A table split into its features and its target.   where: the name of the table in errors."""
    if not need_target and not (targets and {*targets} <= {*table.column_names}):
        return Examples(name, table, None, ", ".join(targets), None, "auto", None, written=True)
    try:
        table, y, target = pop_target(table, targets)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Examples(name, table, y, target, None, "auto", None, written=True)


def pop_weights(examples: Examples, name: str) -> Examples:
    """The examples with a column of the table as the weights of its rows.

    Raises ValueError for a matrix, an absent column, values that are not finite numbers of at least
    0, and weights that are all 0.
    """
    if isinstance(examples.data, np.ndarray) or name not in examples.data.column_names:
        columns = examples.names or getattr(examples.data, "column_names", ())
        guess = did_you_mean(name, columns)
        raise ValueError(
            f"no column named {name!r} for weights; columns: {listing(columns)}{guess}"
        )
    values = weights_in(name, examples.data[name])
    if not values.any():
        raise ValueError(f"weights {name!r} are all 0; some rows must count")
    if examples.data.num_columns == 1:
        raise ValueError(f"weights {name!r} are the only column besides the target; add others")
    return examples._replace(data=examples.data.drop_columns([name]), weights=values)


def weights_in(name: str, cells: Any, decimal: str | None = None) -> np.ndarray:
    """The weights (N,) in a column of a table.   decimal: the decimal mark in text; None: as the
    text suggests.

    Raises ValueError for values that are not finite numbers of at least 0.
    """
    column = Column(cells)
    if column.text is not None:
        mark = decimal or decimal_mark([column.text])
        values, _ = kinds.read(column.text, Reading("number", mark))
    elif column.kind == "number":
        values = column.data.to_numpy()
    else:
        raise ValueError(f"weights {name!r} must be numbers, got {column.source.type}")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"weights {name!r} must be finite numbers of at least 0, got "
            f"{cells[row].as_py()!r} in row {row} (from 0); correct or remove it"
        )
    return values


def take(data: Any, rows: np.ndarray) -> Any:
    """The rows with those numbers of a table, a column or an array."""
    return data[rows] if isinstance(data, np.ndarray) else data.take(rows)


def _from_dataset(dataset: Any, targets: tuple[str, ...]) -> Examples:
    if targets and targets != (dataset.target_name,):
        target = targets[0] if len(targets) == 1 else [*targets]
        raise ValueError(
            f"{dataset.name!r} has the target {dataset.target_name!r}, and no {target!r}"
        )
    test = None if dataset.X_test is None else Rows(dataset.X_test, dataset.y_test)
    return Examples(
        dataset.name,
        dataset.X,
        dataset.y,
        dataset.target_name,
        tuple(dataset.feature_names),
        dataset.task,
        test,
    )
