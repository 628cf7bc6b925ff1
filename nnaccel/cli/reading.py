"""Reads tables by the options: the structure of text, the rules for columns, and the selection of
rows."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel.arguments import did_you_mean

if TYPE_CHECKING:
    from nnaccel.tabular.delimited import Layout
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.sources import Examples, Rows
    from nnaccel.tabular.survey import Rules

DELIMITERS = {"tab": "\t", r"\t": "\t", "space": " "}


def layout_of(options: Any, names: tuple[str, ...] = ()) -> "Layout":
    """The layout of delimited text by the options.   names: of the expected columns."""
    from nnaccel.tabular.delimited import Layout

    delimiter = DELIMITERS.get(options.delimiter, options.delimiter)
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii()):
        raise ValueError(
            f"--delimiter must be one character, tab or space, got {options.delimiter!r}"
        )
    header = None if options.header is None else options.header == "yes"
    return Layout(delimiter, header, options.encoding, names)


def rules_of(options: Any) -> "Rules":
    """The user's rules for the columns, by the options."""
    from nnaccel.tabular.survey import Rules

    codes = None
    if options.missing is not None:
        try:
            codes = () if options.missing == ["none"] else tuple(map(float, options.missing))
        except ValueError:
            given = " ".join(options.missing)
            raise ValueError(f"--missing must be numbers, or none, got {given!r}") from None
    return Rules(tuple(options.drop or ()), tuple(options.keep or ()), options.decimal, codes)


def training_examples(options: Any) -> "Examples":
    """The training examples, with those of --test and the weights of both."""
    from nnaccel.tabular.sources import pop_weights, read

    examples = read(options.source, options.target, layout=layout_of(options))
    if options.test is not None:
        columns = getattr(examples.data, "column_names", ())
        layout = layout_of(options, (*columns, *(options.target or ())))
        test = read(options.test, options.target or examples.target, layout=layout)
        test = pop_weights(test, options.weights) if options.weights else test
        examples = examples._replace(test=test.rows)
    return pop_weights(examples, options.weights) if options.weights else examples


def examples_for(model: "Model", file: str, options: Any, *, need_target: bool) -> "Examples":
    """The examples of a file, read with the columns of the model; the test rows, if a file has
    training and test rows."""
    from nnaccel.tabular.sources import read

    features = model.features
    used = dict.fromkeys(column.name for column in (*features.numeric, *features.categorical))
    layout = layout_of(options, (*used,))
    return of_the_test(read(file, model.target.names, need_target=need_target, layout=layout))


def of_the_test(examples: "Examples") -> "Examples":
    """The examples of the test, where a source has two parts, else all of them."""
    if examples.test is None:
        return examples
    data, y, weights = examples.test
    return examples._replace(data=data, y=y, weights=weights)


def labelled_rows(model: "Model", file: str, options: Any) -> "Rows":
    """The rows of a file that have a target, read with the columns of the model."""
    from nnaccel.tabular.sources import pop_weights

    examples = examples_for(model, file, options, need_target=True)
    if options.weights:
        examples = pop_weights(examples, options.weights)
    return labelled_of(model, examples)


def labelled_of(model: "Model", examples: "Examples") -> "Rows":
    """The examples that have a target."""
    from nnaccel.tabular.model import labelled

    rows = examples.rows._replace(y=model.target.parse(examples.y))
    return labelled(rows, model.target.name)


def some(rows: "Rows", options: Any) -> "Rows":
    """At most --rows of the rows, drawn by --seed, in their order."""
    if rows.n_rows <= options.rows:
        return rows
    rng = np.random.default_rng(options.seed)
    return rows.take(np.sort(rng.choice(rows.n_rows, options.rows, replace=False)))


def copied(examples: "Examples", names: list[str]) -> dict[str, Any]:
    """Unchanged columns (N,) of the examples, by name. Raises ValueError for an absent column."""
    return columns_of(examples.data, names, examples.names)


def columns_of(data: Any, names: list[str], known: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Unchanged columns of a table, or of a matrix whose columns have known names."""
    from nnaccel.tabular.tables import listing

    is_matrix = isinstance(data, np.ndarray)
    present = list(known or ()) if is_matrix else data.column_names
    for name in names:
        if name not in present:
            guess = did_you_mean(name, present)
            raise ValueError(
                f"--with: no column named {name!r}; columns: {listing(present)}{guess}"
            )
    return {n: data[:, present.index(n)] if is_matrix else data[n] for n in names}
