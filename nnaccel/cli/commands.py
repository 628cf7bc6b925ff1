"""The commands, one function each."""

import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnaccel.cli.config_file import print_config
from nnaccel.cli.estimator_files import load_estimator, to_explain
from nnaccel.cli.messages import noted
from nnaccel.cli.outputs import (
    batches_writer,
    check_export,
    check_log,
    check_model_file,
    json_writer,
    picture_writer,
    report_writer,
    save_model,
)
from nnaccel.cli.reading import (
    copied,
    examples_for,
    labelled_of,
    labelled_rows,
    rules_of,
    some,
    training_examples,
)
from nnaccel.cli.streams import in_line, say
from nnaccel.files import STREAM, existing_file

if TYPE_CHECKING:
    from nnaccel.cli.joining import Process
    from nnaccel.devices.device import Device
    from nnaccel.tabular.fit import Fit
    from nnaccel.tabular.model import Model
    from nnaccel.tabular.settings import Settings
    from nnaccel.tabular.sources import Examples
    from nnaccel.tabular.targets import Target


def train(options: Any) -> int:
    from nnaccel.cli import joining

    settings = _settings(options)
    if options.print_config:
        print_config(options)
        return 0
    process = joining.join(options)
    with joining.first_alone(process), noted() as warned:
        return _train(options, settings, process, warned)


def tune(options: Any) -> int:
    from nnaccel.cli import searching
    from nnaccel.cli.joining import ALONE
    from nnaccel.tabular.fit import Fit

    settings = _settings(options)
    if options.print_config:
        print_config(options)
        return 0
    of_train = ("every", "plot", "log", "report")
    vars(options).update(dict.fromkeys(of_train), stream=False)
    write_json, after = _json_of_training(options), searching.to_go_on_from(options)
    examples, output, how = _sources(options, settings, ALONE)
    found = searching.search(options, examples, settings, how, after)
    if found.rung is None or found.status:
        return found.status
    fit = Fit(examples, found.rung.settings, **how)
    _check_room(fit, output)
    of_fit = searching.of_fit(options)
    with_trials = write_json and (lambda data: write_json({**data, **found.data}))
    return _run(fit, examples, output, of_fit, ALONE, with_trials, again=found.again)


def _train(options: Any, settings: "Settings", process: "Process", warned: list[str]) -> int:
    """The run of this process.   warned: the warnings until now, and those to come."""
    write_json = _json_of_training(options)
    fit, examples, output = _prepared(options, settings, process)
    return _run(fit, examples, output, options, process, write_json, warned=warned)


def _run(
    fit: "Fit",
    examples: Any,
    output: Path,
    options: Any,
    process: "Process",
    write_json: Callable[[dict[str, Any]], None] | None,
    *,
    warned: list[str] | None = None,
    again: str = "",
) -> int:
    """Trains a model, tests it and writes it; returns the exit status.

    warned: the warnings until now, and those to come.   again: how to go on after an interruption,
    in words, where that is not by a checkpoint.
    """
    from nnaccel.cli import display, plan
    from nnaccel.cli.checkpoints import NO_CHECKPOINT, Keeper
    from nnaccel.cli.interruption import Interruption
    from nnaccel.training.logs import to_file

    draw = _plot_of_training(options, fit, examples)
    tell = _report_of_training(options, output)
    keeper, console = Keeper(fit, options, process.writes), display.console()
    epochs: Iterable[Any] = fit
    if options.log and process.writes:
        check_log(options)
        epochs = to_file(fit, options.log, append=options.resume is not None)
    lines = plan.plan(fit, examples.structure, fit.device.name)
    console.print(f"{in_line(examples.source)}: {lines}", soft_wrap=True)
    if options.stream:
        console.print(plan.streamed(examples, fit.device), soft_wrap=True)
    # A process that ended its run alone would make the others wait forever.
    with Interruption(handles=process.n == 1) as interruption:
        started = time.perf_counter()
        with interruption.gives_up():
            best = partial(getattr, fit, "best_so_far")
            for _ in display.follow(epochs, fit.n_epochs, fit.metric.name, console, best):
                keeper.after_epoch()
        seconds = time.perf_counter() - started
        if interruption.signal is not None:
            say(f"nnaccel: {interruption.name}: the run ends; once more ends it at once")
        keeper.write()
        if not fit.n_done:
            say(f"nnaccel: interrupted by {interruption.name} in the first epoch: nothing to keep")
            return interruption.status
        json = write_json if process.writes else None
        model, scores = _finish(fit, options, output, json, process)
        if draw and process.writes:
            draw(model)
        if tell and process.writes:
            tell(fit, model=model, scores=scores, seconds=seconds, warnings=warned)
    keeper.check()
    if interruption.signal is not None:
        kept = keeper.what_is_kept(options.arguments, again or NO_CHECKPOINT)
        say(f"nnaccel: interrupted by {interruption.name} {kept}")
    return interruption.status


def _finish(
    fit: "Fit",
    options: Any,
    output: Path,
    write_json: Callable[[dict[str, Any]], None] | None,
    process: "Process",
) -> tuple["Model", dict[str, Any]]:
    """Writes the model, and what it is worth; returns it with its scores on the test rows."""
    from nnaccel.cli import display, plan, score_tables

    console = display.console()
    model, scores = fit.model(), {}
    console.print(plan.kept(fit))
    if model.scores:
        title = f"out of fold on {fit.rows['train']:,} rows"
        console.print(score_tables.out_of_fold(model.scores, title))
    if fit.rows["test"]:
        scores = fit.evaluate(model)
        model = model._replace(scores=score_tables.single(scores) | model.scores)
        title = f"test on {fit.rows['test']:,} rows"
        console.print(score_tables.scores(scores, title, fit.target))
    if process.writes:
        save_model(model, output)
    if write_json:
        found = {**_described(model, str(output)), "rows": fit.rows}
        write_json({**found, "scores": model.scores | scores})
    use = in_line(shlex.join(["nnaccel", "predict", str(output), options.source]))
    console.print(f"\nmodel written to {in_line(output)}; use it: {use}", soft_wrap=True)
    return model, scores


def predict(options: Any) -> None:
    from nnaccel.cli import streaming

    model = _load(options.model)
    write = batches_writer(options.output, source=options.file)
    _check_threshold(model, options.threshold)
    if options.proba and model.target.task == "regression":
        raise ValueError("--proba is for classification, and this model predicts numbers")
    if options.spread and model.members == 1:
        raise ValueError("--spread is for a model of several networks, and this one is of one")
    _check_copies(model, options)
    streamed = streaming.wants_stream(options.file, options)
    find: Any = streaming.predictions if streamed else _predictions
    device = _device(options.device, str(model.params.dtype))
    write(_columns(model, options, *found) for found in find(model, options, device))


def _predictions(model: "Model", options: Any, device: "Device") -> Iterator[tuple[Any, ...]]:
    """The columns to copy, the outputs and, with --spread, the spread for the rows of a file."""
    examples = examples_for(model, options.file, options, need_target=False)
    columns = copied(examples, options.copied)
    if options.spread:
        yield columns, *model.outputs_and_spread(examples.data, device)
    else:
        yield columns, model.outputs(examples.data, device), None


def _columns(
    model: "Model", options: Any, columns: dict[str, Any], outputs: Any, spread: Any
) -> dict[str, Any]:
    """The columns that `predict` writes."""
    columns = columns | _predicted(model, outputs, options)
    if spread is None:
        return columns
    return columns | dict(zip(_spreads(model), spread.reshape(len(spread), -1).T, strict=True))


def evaluate(options: Any) -> None:
    from nnaccel.cli import display, score_tables, streaming

    if options.file == STREAM and len(options.model) > 1:
        raise ValueError("standard input can be read once; name a FILE to compare models on")
    models = {path: _load(path) for path in options.model}
    for model in models.values():
        _check_threshold(model, options.threshold)
    write_json = options.json and json_writer(options.json, sources=[*models, options.file])
    found, n = {}, 0
    score = streaming.scores if streaming.wants_stream(options.file, options) else _scores
    for path, model in models.items():
        device = _device(options.device, str(model.params.dtype))
        found[path], n = score(model, options, device)
    if write_json:
        each = [{**_described(models[path], path), "scores": s} for path, s in found.items()]
        write_json({"file": options.file, "rows": n, "models": each})
    if options.json == STREAM:
        return
    title = f"on {n:,} rows of {options.file}"
    if len(models) > 1:
        shown = score_tables.comparison(found, title)
    else:
        ((path, scores),) = found.items()
        shown = score_tables.scores(scores, f"{path} {title}", models[path].target)
    display.console().print(shown)


def _scores(model: "Model", options: Any, device: "Device") -> tuple[dict[str, Any], int]:
    """The scores of a model on the rows of a file that have a target, and the number of these
    rows."""
    rows = labelled_rows(model, options.file, options)
    how = {"weights": rows.weights, "threshold": options.threshold}
    return model.evaluate(rows.data, rows.y, device, **how), rows.n_rows


def explain(options: Any) -> None:
    from nnaccel.cli import display, explanations

    sources, of_columns = [options.model, options.file], options.row is None
    write_json = options.json and json_writer(options.json, sources=sources)
    write_picture = options.plot and picture_writer(options.plot, sources=sources)
    if of_columns:
        _check_counts(options)
    model, examples = to_explain(options, need_target=of_columns)
    if of_columns:
        rows = some(labelled_of(model, examples), options)
        device = _device(options.device, str(model.params.dtype))
        found = explanations.of_columns(model, rows, options, device)
    else:
        found = explanations.of_row(model, examples.data, options.row)
    if write_json:
        write_json({"model": options.model, "file": options.file, **found.data})
    if write_picture:
        write_picture(found.draw)
    if options.json != STREAM:
        console = display.console()
        for table in found.tables:
            console.print(display.table(*table))


def export(options: Any) -> None:
    from nnaccel.export.formats import FORMATS, format_of

    format = format_of(options.file, options.format)
    estimator = load_estimator(options.model)
    model = _load(options.model) if estimator is None else estimator
    check_export(options.file, source=options.model, replace=options.force)
    model.export(options.file, format)
    what = FORMATS[format].title
    if estimator is not None:
        what = f"the network of the {type(estimator).__name__}, {format}"
    say(f"{in_line(options.file)} written: {what}")


def inspect(options: Any) -> None:
    from nnaccel.cli import display, model_tables

    display.console().print(model_tables.model(_load(options.model), options.model))


def devices(options: Any) -> None:
    from nnaccel.cli import display
    from nnaccel.devices.available import available

    display.console().print(display.devices(available()))


def gradcheck(options: Any) -> int:
    from nnaccel.cli import display
    from nnaccel.training.gradcheck import catalogue

    _settings(options)
    device = _device(options.device, "float64")
    checked = list(catalogue(device, options.seed))
    rows = ((name, f"{max(c.errors):.1e}", "ok" if c.passed else "FAILS") for name, c in checked)
    title = f"backpropagation against central differences, float64, on {device.name}"
    header = ("what", "relative error", f"at most {checked[0].check.tolerance:g}")
    display.console().print(display.table(title, header, rows))
    return 0 if all(c.passed for _, c in checked) else 1


def bench(options: Any) -> None:
    from nnaccel.cli import display
    from nnaccel.training.benchmark import run

    if not 0 < options.seconds <= 3600:
        raise ValueError(f"--seconds must be above 0 and at most 3600, got {options.seconds}")
    rows = run(options.device, seconds=options.seconds)
    console = display.console()
    console.print(f"timing four networks on each device, about {options.seconds:g} s")
    for line in display.speeds(rows):
        console.print(line)


def _prepared(options: Any, settings: "Settings", process: "Process") -> tuple["Fit", Any, Path]:
    """A training run before its first epoch, its examples, in memory or streamed, and the file of
    its model."""
    from nnaccel.cli.checkpoints import check_options, to_go_on_from
    from nnaccel.tabular.fit import Fit
    from nnaccel.training import checkpoint

    check_options(options)
    after = to_go_on_from(options, checkpoint.load)
    examples, output, how = _sources(options, settings, process)
    if options.stream:
        with process.goes_first():  # the others find its rows, if they see its disk
            examples.encoded(settings, rules=how["rules"], test_fraction=how["test_fraction"])
    keeps = bool(options.checkpoint or options.resume or process.n > 1)
    fit = Fit(examples, settings, **how, keeps=keeps, after=after)
    process.check_same(str(fit.identity))
    if process.writes:
        _check_room(fit, output)
    return fit, examples, output


def _sources(
    options: Any, settings: "Settings", process: "Process"
) -> tuple[Any, Path, dict[str, Any]]:
    """The examples to train on, in memory or streamed, the file for the model, and the arguments of
    `Fit` beside the settings."""
    from nnaccel.cli import streaming

    if options.source is None:
        raise ValueError(
            f"{options.command} needs a SOURCE: a file or a built-in data set such as digits; it "
            "comes before options that take several words, such as --target"
        )
    if not 0 <= options.test_fraction < 1:
        raise ValueError(
            f"--test-fraction must be at least 0 and below 1, got {options.test_fraction}"
        )
    if options.json is not None and options.json == options.output:
        raise ValueError(f"--output and --json both name {options.output}; choose another --json")
    how = {
        "rules": rules_of(options),
        "device": _device(options.device, settings.dtype),
        "test_fraction": options.test_fraction,
        "kernels": not options.no_kernels,
    }
    options.stream = streaming.wants_stream(options.source, options)
    if options.stream and options.command == "tune":
        raise ValueError(
            'tune needs the table in memory; tune on some of its rows, such as the query "from '
            "'big.parquet' using sample 100000 rows\", and train on all of them with what it finds"
        )
    read = streaming.streamed_examples if options.stream else training_examples
    examples: Any = read(options)
    output = Path(options.output or f"{examples.source}.safetensors")
    # A resumed run replaces the model of the interrupted one.
    replace = options.force or options.output is not None or options.resume is not None
    if process.writes:
        check_model_file(output, replace=replace)
    return examples, output, how


def _check_room(fit: "Fit", output: Path) -> None:
    """OSError where the model will not fit onto the disk."""
    from nnaccel.files import writable

    writable(output, 8 * fit.n_params)


def _json_of_training(options: Any) -> Callable[[dict[str, Any]], None] | None:
    """The function that writes the scores of a run, with --json; else None."""
    if options.json is None:
        return None
    if options.json == STREAM:
        raise ValueError(
            f"{options.command} prints its plan on standard output; give --json the name of a file"
        )
    return json_writer(options.json, sources=[s for s in (options.source, options.test) if s])


def _plot_of_training(
    options: Any, fit: "Fit", examples: "Examples"
) -> Callable[["Model"], None] | None:
    """The function that draws the boundary of the trained model, with --plot; else None."""
    if options.plot is None:
        return None
    from nnaccel.cli.boundary import boundary_writer

    return boundary_writer(
        options.plot, fit, examples, [s for s in (options.source, options.test) if s]
    )


def _report_of_training(options: Any, output: Path) -> Callable[..., None] | None:
    """What writes the report of a run, if that is wanted."""
    if options.report is None:
        return None
    names = ("source", "test", "json", "plot", "log", "checkpoint", "resume")
    others = [name for n in names if (name := getattr(options, n)) is not None]
    if any(Path(other) == Path(options.report) for other in (*others, output)):
        raise ValueError(f"--report names {options.report}, as another option does; choose another")
    command = shlex.join(["nnaccel", *options.arguments])
    return partial(report_writer(options.report, sources=others), command=command)


def _described(model: "Model", path: str) -> dict[str, Any]:
    """The description of a model for --json, without its scores."""
    from nnaccel.tabular.several_targets import columns_of

    target = model.target
    classes = {one.name: one.classes for one in columns_of(target) if one.classes}
    known = {"model": path, "task": target.task, "target": target.names, "classes": classes}
    return known | {"epochs": len(model.history)}


def _predicted(model: "Model", outputs: Any, options: Any) -> dict[str, Any]:
    """The columns of predictions by name, with the probability of each class for --proba."""
    from nnaccel.tabular import estimates
    from nnaccel.tabular.several_targets import probabilities

    found = estimates.predicted(model.target, model.loss, outputs, options.threshold)
    columns = found if isinstance(found, dict) else {model.target.name: found}
    if options.proba:
        for one, P in probabilities(model.target, outputs):
            columns |= dict(zip(_headings(one), P.T, strict=True))
    return columns


def _headings(target: "Target") -> list[str]:
    """The names of the columns of probabilities, such as `y=no`. A class is written as in a cell,
    so true and false are in lower case, as Arrow writes them."""
    cells = (str(c).lower() if isinstance(c, bool) else str(c) for c in target.classes)
    return [f"{target.name}={cell}" for cell in cells]


def _spreads(model: "Model") -> list[str]:
    """The names of the columns of the spread: `price spread`."""
    return [f"{name} spread" for name in _columns_of(model)]


def _columns_of(model: "Model") -> list[str]:
    """The names of the columns of predictions."""
    from nnaccel.tabular.estimates import names_of

    return [column for name in model.target.names for column in names_of(name, model.loss)]


def _check_copies(model: "Model", options: Any) -> None:
    """Raises ValueError for columns to copy that have the name of a prediction."""
    from nnaccel.tabular.several_targets import columns_of

    predicted = _columns_of(model)
    if options.proba:
        predicted += [name for one in columns_of(model.target) for name in _headings(one)]
    if options.spread:
        predicted += _spreads(model)
    if both := [name for name in options.copied if name in predicted]:
        raise ValueError(f"--with: {both[0]!r} is also the name of a prediction; leave it out")


def _check_counts(options: Any) -> None:
    for name, least in (("repeats", 1), ("rows", 2), ("top", 0), ("seed", 0)):
        if (value := getattr(options, name)) < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if options.seed >= 2**32:
        raise ValueError(f"--seed must be below 2^32, got {options.seed}")


def _check_threshold(model: "Model", threshold: float | None) -> None:
    try:
        model.target.check_threshold(threshold)
    except ValueError as error:  # it begins with the name of the option
        raise ValueError(f"--{error}") from None


def _settings(options: Any) -> "Settings":
    """The settings among the options. Raises ValueError that names an option out of range."""
    from nnaccel.tabular.settings import Settings

    given = vars(options)
    try:
        return Settings(**{n: given[n] for n in Settings.__dataclass_fields__ if n in given})
    except ValueError as error:  # it begins with the name of the setting
        name, _, problem = str(error).partition(" ")
        if name not in given:
            raise
        raise ValueError(f"--{name.replace('_', '-')} {problem}") from None


def _device(name: str, dtype: str) -> "Device":
    from nnaccel.devices.device import dtype_of, prepare, select

    device = select(name)
    prepare(device, dtype)
    dtype_of(device, dtype)
    return device


def _load(path: str) -> "Model":
    from nnaccel.tabular.model import Model

    return Model.load(existing_file(path))
