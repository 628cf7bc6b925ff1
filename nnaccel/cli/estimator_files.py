"""Files saved by estimators, for the commands `export` and `explain`."""

from typing import TYPE_CHECKING, Any

from nnaccel.cli.reading import examples_for, layout_of, of_the_test
from nnaccel.files import existing_file
from nnaccel.tabular.tables import listing

if TYPE_CHECKING:
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.sources import Examples


def load_estimator(path: str) -> Any:
    """The MLPClassifier or MLPRegressor in a file; None if the file has the model of a table."""
    from nnaccel.training import model_file

    if "estimator" not in model_file.load(existing_file(path)).extra:
        return None
    from nnaccel.estimators import MLPClassifier, MLPRegressor
    from nnaccel.estimators.model_files import read

    return read(path, MLPClassifier, MLPRegressor)


def to_explain(options: Any, *, need_target: bool) -> tuple["Model", "Examples"]:
    """The model in a file, of an estimator or a table, and the examples to explain it with."""
    from nnaccel.tabular.model import Model

    estimator = load_estimator(options.model)
    if estimator is not None:
        return _of_estimator(estimator, options, need_target)
    model = Model.load(options.model)
    if options.target:
        raise ValueError(
            f"--target is for files of estimators, and the model in {options.model} predicts "
            f"{model.target.name!r}; leave it out"
        )
    examples = examples_for(model, options.file, options, need_target=need_target)
    return model, _weighed(examples, options, need_target)


def _of_estimator(estimator: Any, options: Any, need_target: bool) -> tuple["Model", "Examples"]:
    """The network of an estimator as a model of the columns of a file, and the examples there.

    A file of an estimator has no name of the target; --target names it. The columns are those with
    the names of the fit; if it had no names, all other columns in their order.
    """
    from nnaccel.estimators.matrix_model import matrix_model
    from nnaccel.tabular.sources import read

    how = {"need_target": need_target, "layout": layout_of(options, tuple(options.target or ()))}
    examples = of_the_test(read(options.file, options.target, **how))
    examples = _weighed(examples, options, need_target)
    columns = [*(examples.names or examples.data.column_names)]
    n, named = estimator.n_features_in_, hasattr(estimator, "feature_names_in_")
    if not named and len(columns) != n:
        raise ValueError(
            f"{options.file}: the network was fitted on {n} columns without names, and there are "
            f"{len(columns)} beside the target: {listing(columns)}; give it the same columns, and "
            "name the target by --target"
        )
    targets = options.target or ((examples.target,) if need_target else ())
    return matrix_model(estimator, None if named else columns, targets), examples


def _weighed(examples: "Examples", options: Any, need_target: bool) -> "Examples":
    """The examples with the weights of --weights, if rows need a target."""
    from nnaccel.tabular.sources import pop_weights

    return pop_weights(examples, options.weights) if options.weights and need_target else examples
