"""The plan that `nnaccel train` prints before it begins: the target, the columns, and the run."""

from collections.abc import Iterator

from nnaccel.cli.streams import in_line
from nnaccel.devices.device import Device
from nnaccel.maths.layers import PiecewiseLinear
from nnaccel.maths.minibatch import n_steps
from nnaccel.maths.network import layout
from nnaccel.tabular.delimited import Structure
from nnaccel.tabular.encoding import Features
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.several_targets import Targets
from nnaccel.tabular.streamed.examples import Streamed
from nnaccel.tabular.tables import listing
from nnaccel.tabular.targets import Target
from nnaccel.training.data import RESIDENT

SHOWN_NAMES = 6


def plan(fit: Fit, structure: Structure | None, device: str) -> str:
    """The plan of a training run in a few lines.

    structure: the structure found in delimited text.
    """
    chosen, network, run = fit.settings, fit.network, fit.branches[-1].run
    assert chosen.hidden is not None
    assert chosen.batch_size
    assert chosen.epochs
    hint = f" ({fit.hint})" if fit.hint else ""
    rows = ", ".join(f"{n:,} {name}" for name, n in fit.rows.items() if n)
    sizes = "-".join(map(str, (network.n_inputs, *chosen.hidden, network.n_outputs)))
    kind = f"{' '.join(chosen.activation)}, dropout {chosen.dropout:g}"
    if chosen.dropout and (chosen.dropout_until or 1.0) < 1:
        kind += f" for {chosen.dropout_until:.0%} of the epochs"
    steps = n_steps(fit.rows["train"], run.batch_size, chosen.epochs)
    precision = "" if chosen.precision == "float32" else f", products in {chosen.precision}"
    lines = [
        f"{task_of(fit.target)}{hint}, rows: {rows}",
        *_columns(fit.features, structure),
        f"network {sizes}, {kind if chosen.hidden else 'linear'}, "
        f"{layout(network).size:,} parameters, on {device}{precision}",
        *_members(fit),
        f"{chosen.optimizer}, {chosen.schedule} schedule up to {chosen.learning_rate:g}, weight "
        f"decay {chosen.weight_decay:g}, {count(chosen.epochs, 'epoch')} in batches of "
        f"{run.batch_size}, {count(steps, 'step')}",
    ]
    if chosen.class_weight:
        border = "; --threshold of predict moves the border" * (len(fit.target.classes) == 2)
        lines.append(f"class weights: probabilities are those of balanced classes{border}")
    return "\n".join([*lines, *_places(fit), f"kernels: {fit.kernels}"])


def _places(fit: Fit) -> Iterator[str]:
    """Where the rows of a table in memory are, for several devices."""
    if not fit.device.is_several or fit.on_disk:
        return
    devices = count(fit.device.n_slices, "device")
    if fit.resident:
        yield f"data: on each of {devices}"
    else:
        yield (
            f"data: more than {RESIDENT:.0%} of the free memory of a device; each of {devices} "
            "gets its share of each batch"
        )


def streamed(examples: Streamed, device: Device) -> str:
    """Where the rows are that one network is trained on, and who reads them."""
    assert examples.matrix is not None
    path, regions = examples.matrix.path, examples.matrix.X.regions
    size = f"{path.stat().st_size / 1e9:.3g} GB"
    how = "as an earlier run has encoded them" if examples.found else "encoded"
    windows = f", read in {count(regions, 'window')} an epoch"
    if device.is_several:
        windows += f", by each of {count(device.n_slices, 'device')} its share"
    return f"rows: {how}, {size} in {in_line(path)}{windows}; one network"


def kept(fit: Fit) -> str:
    """The epochs whose weights the model has, and the chosen kind of networks."""
    best = sorted({*fit.best})
    if len(best) == 1:
        said = f"the weights are those of epoch {best[0]}"
        said += ", the best on validation" * bool(fit.rows["validation"] or fit.members > 1)
    else:
        said = f"the weights are those of epochs {best[0]} to {best[-1]}, the best of each network"
    if len(fit.branches) > 1:
        said += f"; numbers: {fit.chosen}, of the least out-of-fold loss"
    return said


def _members(fit: Fit) -> Iterator[str]:
    """The encoding of numbers, and the number of networks of each kind."""
    several, encoding = len(fit.branches) > 1, fit.network.layers[0]
    if isinstance(encoding, PiecewiseLinear):
        bins = f"piecewise linear encoding, {count(encoding.n_bins, 'bin')}"
        if several:
            yield f"numbers: plain and {bins}; the out-of-fold loss decides"
        else:
            yield f"numbers: with their {bins}"
    if fit.members > 1:
        networks = count(fit.members * len(fit.branches), "network")
        networks += f", {fit.members} of each kind" * several
        yield f"{networks} on {fit.members} folds, each validated on the fold that it does not see"


def task_of(target: Target | Targets) -> str:
    """`regression of 'price'`, `classification of 'a', 'b', each by itself`."""
    names = ", ".join(map(repr, target.names))
    if target.task == "labels":
        return f"classification of {names}, each by itself"
    return f"{target.task} of {names}"


def count(n: int, what: str) -> str:
    """`1 step`, `2,000 steps`."""
    if n != 1:
        what = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{n:,} {what}"


def _columns(features: Features, structure: Structure | None) -> Iterator[str]:
    """How the table is read: kinds of columns, unusual structure, and unused columns."""
    kinds = {c.name: features.reading(c).kind for c in features.numeric}
    kinds |= {column.name: "category" for column in features.categorical}
    found = [*kinds.values()]
    words = [count(found.count(kind), kind) for kind in KINDS if kind in found]
    yield "; ".join([f"columns: {', '.join(words)}", *_layout(features, structure)])
    if dropped := features.dropped:
        yield "not used: " + _short(f"{in_line(n)} ({why})" for n, why in dropped.items())
    codes: dict[float, list[str]] = {}
    for name, reading in features.readings.items():
        for code in reading.codes:
            codes.setdefault(code, []).append(name)
    if codes:
        where = (f"{code:.15g} in {_short(map(in_line, n))}" for code, n in codes.items())
        yield "taken as missing: " + "; ".join(where)


KINDS = ("number", "category", "date", "time", "duration")
USUAL = (",", True, 1)  # separator, whether there is a header, and its line


def _layout(features: Features, structure: Structure | None) -> Iterator[str]:
    if any(reading.form == "," for reading in features.readings.values()):
        yield "decimal comma"
    if structure and (structure.delimiter, structure.header, structure.line) != USUAL:
        yield str(structure)


def _short(names: Iterator[str]) -> str:
    return listing(names, SHOWN_NAMES)
