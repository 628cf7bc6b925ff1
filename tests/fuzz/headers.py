"""Forged models and checkpoints: the digest is right, and something in the header is not."""

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from safetensors.numpy import load as from_bytes

from nnaccel import MLPClassifier, MLPRegressor
from nnaccel.maths.layers import LAYERS, Dense, Dropout, Residual, example
from nnaccel.maths.network import Network, mlp
from nnaccel.tabular.features import Categorical, Numeric
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import Examples
from nnaccel.training import checkpoint, model_file, safe_file
from nnaccel.training.checkpoint import Progress
from nnaccel.training.early_stopping import EarlyStopping
from nnaccel.training.epoch import SCORES
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize
from tests.fuzz.mutants import mutant
from tests.fuzz.pool import Judge


class Original(NamedTuple):
    """A sound file: its header as data, its tensors, its bytes, and what loads and uses it."""

    header: Any
    tensors: dict[str, np.ndarray]
    content: bytes
    use: Callable[[Path], None]


# ---------------------------------------------------------------------------- sound models


def table_model(target: str) -> Model:
    return fit_of(target).model()._replace(scores={"accuracy": 0.5})


def run_of(path: Path, members: int | None) -> None:
    """A checkpoint of one network, or of several."""
    rng = np.random.default_rng(0)
    X, y, network = rng.standard_normal((20, 3)), np.arange(20) % 2, mlp(3, [4], 2)
    held_out = (X, y) if members is None else (np.stack([X] * 2), np.stack([y] * 2))
    run = train(
        network, X, y, loss="softmax_cross_entropy", validation_data=held_out, epochs=3,
        params=initialize(network, members=members), metric="accuracy",
    )  # fmt: skip
    stopping, history = EarlyStopping(None), []
    for epoch in stopping(run):
        history.append({"loss": float(np.mean(epoch.loss)), "odd": float("nan")})
        checkpoint.save(path, epoch, stopping=stopping, history=history, extra={"a": [1]})


def fit_of(target: str, *, keeps: bool = False, **settings: Any) -> Fit:
    """A run on all kinds of columns, at its end."""
    rng = np.random.default_rng(0)
    n = 60
    columns = {
        "x": rng.standard_normal(n),
        "m": pa.array([None if i % 5 == 0 else float(i % 11) for i in range(n)]),
        "s": [f"text {i % 3}" for i in range(n)],
        "b": [i % 4 == 0 for i in range(n)],
        "k": pa.array(np.arange(n) % 3).dictionary_encode(),
        "label": ["yes" if i % 2 else "no" for i in range(n)],
        "digit": np.arange(n) % 3,
        "price": rng.standard_normal(n) * 1000,
    }
    names = ["x", "m", "s", "b", "k"]
    data = pa.table({name: columns[name] for name in names})
    y = pa.chunked_array([pa.array(columns[target])])
    examples = Examples("t", data, y, target, None, "auto", None)
    fit = Fit(examples, Settings(hidden=(4,), epochs=2, **settings), keeps=keeps)
    for _ in fit:
        pass
    return fit


def estimators() -> Iterator[Any]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 3))
    options = {"hidden_layer_sizes": (4, 3), "max_iter": 2, "random_state": 0}
    y = np.arange(30) % 3
    yield MLPClassifier(**options, activation=["tanh", "relu"]).fit(X, y)
    yield MLPClassifier(**options, class_weight={"no": 2.0, "yes": 1.0}).fit(
        X, np.array(["no", "yes"])[y % 2]
    )
    yield MLPClassifier(**options, early_stopping=True).fit(X, np.stack([y == 0, y > 0], 1) * 1)
    yield MLPRegressor("huber", **options, delta=2.0, n_iter_no_change=np.inf).fit(X, X[:, :2])


def networks() -> Iterator[tuple[Network, str]]:
    yield Network(3, [Dense(4, "leaky_relu"), Dropout(0.5), Dense(2)]), "softmax_cross_entropy"
    inner = [example(name, 4) for name in LAYERS if name != "dense"]
    yield Network(3, [Dense(4, "gelu"), Residual([*inner, Dense(4)]), Dense(1)]), "huber"


def originals(folder: Path) -> list[Original]:
    path, found = folder / "original", []

    def add(use: Callable[[Path], None]) -> None:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        entry = json.loads(content[8 : 8 + length])["__metadata__"]["nnaccel"]
        header = json.loads(entry.rpartition("\n")[0])
        # Copies, since those that are read are of the memory of the file.
        tensors = {name: array.copy() for name, array in from_bytes(content).items()}
        found.append(Original(header, tensors, content, use))
        use(path)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in ("label", "digit", "price"):
            table_model(target).save(path)
            add(use_model)
        for estimator in estimators():
            estimator.save(path)
            add(partial(use_estimator, cls=type(estimator)))
        for network, loss in networks():
            model_file.save(path, network, initialize(network), loss=loss)
            add(use_network)
        for members in (None, 2):
            run_of(path, members)
            add(use_checkpoint)
        fit_of("label", keeps=True, members=2).save(path)
        add(use_checkpoint)
    return found


# ---------------------------------------------------------------------------- their use


class NotOfUseError(Exception):
    """A file was loaded, and what came of it is wrong."""


def use_model(path: Path) -> None:
    """A prediction of two rows that have what the encoding asks for, and saved again."""
    model = Model.load(path)

    def column(spec: Numeric | Categorical) -> pa.Array:
        if isinstance(spec, Numeric):
            return pa.array([spec.center, None], pa.float64())
        kinds = {"string": pa.string(), "boolean": pa.bool_(), "number": pa.float64()}
        return pa.array([spec.levels[-1], None], kinds[spec.kind])

    used = (*model.features.numeric, *model.features.categorical)
    labels = model.predict(pa.table({spec.name: column(spec) for spec in used}))
    if len(labels) != 2 or labels.dtype == object:
        raise NotOfUseError(f"predicts {labels!r}")
    known = set(model.target.classes)
    if model.target.task == "classification" and not set(labels.tolist()) <= known:
        raise NotOfUseError(f"predicts {labels.tolist()}, knows {known}")
    model.save(path)
    Model.load(path)


def use_estimator(path: Path, cls: Any) -> None:
    estimator = cls.load(path)
    X = np.zeros((2, estimator.n_features_in_))
    found = estimator.predict(X)
    if len(found) != 2 or not set(map(type, found.ravel().tolist())) <= {int, float, str}:
        raise NotOfUseError(f"predicts {found!r}")
    if cls is MLPClassifier:
        P, K = estimator.predict_proba(X), len(estimator.classes_)
        if P.shape != (2, K if estimator._has_labels else max(K, 2)):
            raise NotOfUseError(f"probabilities of shape {P.shape} of {K} classes")
    repr(estimator), estimator.get_params()
    estimator.save(path)
    cls.load(path)


def use_network(path: Path) -> None:
    found = model_file.load(path)
    A = predict(found.network, found.params, np.zeros((2, found.network.n_inputs)), loss=found.loss)
    if A.shape[-2:] != (2, found.network.n_outputs):
        raise NotOfUseError(f"predictions of shape {A.shape}")
    model_file.save(path, *found[:2], loss=found.loss, extra=found.extra, vectors=found.vectors)
    model_file.load(path)


def use_checkpoint(path: Path) -> None:
    """Predictions of the last and the best networks, and saved again."""
    saved = checkpoint.load(path)
    for epoch, best, history in saved.runs:
        network, loss = (epoch._origin.settings[name] for name in ("network", "loss"))
        for kept in (epoch, *([best.epoch] if best else ())):
            A = predict(network, kept.params, np.zeros((2, network.n_inputs)), loss=loss)
            if A.shape[-2:] != (2, network.n_outputs) or not {*kept.scores()} <= {*SCORES}:
                raise NotOfUseError(f"predictions of shape {A.shape}, scores {kept.scores()}")
        if not all(type(v) in (int, float) for row in history for v in row.values()):
            raise NotOfUseError(f"history {history}")
        EarlyStopping(3, after=Progress(epoch, best))
    checkpoint.save_runs(path, saved.runs, saved.extra)
    checkpoint.load(path)


# ---------------------------------------------------------------------------- forgery

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 3, 255, 2**31 - 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1,
    10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 2.5, -1.5, 1e-320, 1e200, 1e300, -1e300, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "x", "relu", "tanh", "softmax_cross_entropy",
    "binary_cross_entropy", "squared_error", "poisson", "classification", "regression", "dense",
    "residual", "dropout", "number", "string", "boolean", "whole number", "binary", "multiclass",
    "numbers", "none", "auto", "\ud800", "a\0", "\0", "\u202e", "é" * 300, "x" * 100_000,
    [], {}, [[]], [{}], {"": {}}, [1], [1, 2], [0.5, 0.25], ["a", "b"], ["a", "a"], [True, False],
    [None], [1, "a"], [2**63, 2**63 + 1], [1, 2**63], list(range(1000)), {"number": "inf"},
    {"number": "nan"}, {"number": []}, {"number": "1_0"}, {"pairs": []}, {"pairs": [[1, 2]]},
    {"pairs": [[[], {}]]}, {"pairs": 3}, {"pairs": [[1, 2, 3]]}, {"type": "dropout", "rate": 0.5},
    {"slope": 0.5}, {"slope": [0.5]}, {"slope": 1e300}, {"delta": 2.0}, {"xp": 1}, {"self": 1},
    {"name": "relu", "options": {}}, {"name": "relu", "options": {"slope": 1}},
]  # fmt: skip
TEXTS = [  # in the place of a value, as no library would write them
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[" * 60 + "]" * 60, "[" * 500 + "]" * 500,
    "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a":1,"a":2}', "9" * 5000,
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "[1,]", "'x'", "01", "1 1", "", "{", "nul",
]  # fmt: skip
HERE = "\N{REPLACEMENT CHARACTER} here"


def places(data: Any, trail: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON data."""
    pairs = data.items() if type(data) is dict else enumerate(data) if type(data) is list else ()
    for key, value in pairs:
        yield (*trail, key)
        yield from places(value, (*trail, key))


def like(value: Any, rng: Random) -> Any:
    """Another value of the same type, which a look at the type alone does not tell from it."""
    if type(value) is list and value:
        return rng.choice([value[::-1], value[1:], value[:-1], value + value[-1:], value[:1]])
    if type(value) is dict and value:
        return dict(rng.sample(list(value.items()), rng.randrange(len(value) + 1)))
    if type(value) in (int, float) and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, -value, value * 2, value // 3])
    return copy.deepcopy(rng.choice([v for v in VALUES if type(v) is type(value)]))


def forge(header: Any, others: list[Any], rng: Random) -> str:
    """The text of a header in which something is wrong."""
    header, texts = copy.deepcopy(header), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        trails = list(places(header))
        *way, key = rng.choice(trails)
        part = header
        for step in way:
            part = part[step]
        kinds = ["like", "like", "like", "value", "value", "text", "drop", "add", "move", "double"]
        kind = rng.choice(kinds)
        if kind == "like":
            part[key] = like(part[key], rng)
        elif kind == "value":
            part[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == "text":
            part[key] = f"{HERE}{len(texts)}"
            texts.append(rng.choice(TEXTS))
        elif kind == "drop":
            del part[key]
        elif kind == "add" and type(part) is dict:
            part[rng.choice(["", "unheard of", "type", "__class__", "layers"])] = rng.choice(VALUES)
        elif kind == "double" and type(part) is list:
            part.insert(key, copy.deepcopy(part[key]))
        else:  # the value of another place, of this or another header
            source = rng.choice([header, *others])
            for step in rng.choice(list(places(source))):
                source = source[step]
            part[key] = copy.deepcopy(source)
        if not header:
            break
    dumped = json.dumps(header, ensure_ascii=rng.random() < 0.5)
    for i, text in enumerate(texts):
        dumped = dumped.replace(json.dumps(f"{HERE}{i}"), text)
        dumped = dumped.replace(json.dumps(f"{HERE}{i}", ensure_ascii=False), text)
    if rng.random() < 0.05 and dumped.startswith("{"):  # a key twice
        dumped = "{" + rng.choice(['"format": 1,', '"network": {},']) + dumped[1:]
    return dumped


def sealed(text: str, tensors: dict[str, np.ndarray], rng: Random) -> bytes:
    """A safetensors file with that header and the digest that it should have.

    Now and then a tensor is of another shape or type, missing, or not where it says.
    """
    tensors, name = dict(tensors), rng.choice(list(tensors))
    kind, vector = rng.random(), tensors[name]
    if kind < 0.05:
        changes = [vector[None], np.stack([vector] * 2), vector[..., :-1], vector[:0], 0 * vector]
        tensors[name] = rng.choice([*changes, vector * np.inf])
    elif kind < 0.08:
        tensors[name] = vector.astype(rng.choice(["float16", "int32", "float64", "bool"]))
    elif kind < 0.1:
        tensors[rng.choice(["more", "", "\0", "1.last.params"])] = vector
    elif kind < 0.12:
        del tensors[name]
    try:
        digest = safe_file.digest(text, tensors)
    except UnicodeEncodeError:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    entries, at, body = {}, 0, b""
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "int32": "I32", "bool": "BOOL"}
    for name, array in tensors.items():
        offsets = [at, at + array.nbytes]
        shape, dtype = list(array.shape), names[str(array.dtype)]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        at, body = offsets[1], body + array.tobytes()
    outer: dict[str, Any] = {"__metadata__": {"nnaccel": f"{text}\n{digest}"}, **entries}
    if rng.random() < 0.1:
        absurd(outer, rng)
    dumped = json.dumps(outer).encode()
    length = len(dumped)
    if rng.random() < 0.02:
        length = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1])
    return length.to_bytes(8, "little") + dumped + body


def absurd(outer: dict[str, Any], rng: Random) -> None:
    """Offsets, shapes and types that no file has, or a great many tensors."""
    names = [name for name in outer if name != "__metadata__"]
    entry = outer[rng.choice(names)] if names else {"data_offsets": [], "shape": []}
    kind = rng.choice(["offsets", "shape", "dtype", "many", "metadata", "value"])
    if kind == "offsets":
        numbers = [0, 1, -1, 4, 2**31, 2**63, 2**64, 10**30, *entry["data_offsets"]]
        entry["data_offsets"] = [rng.choice(numbers) for _ in range(rng.choice([0, 1, 2, 2, 2, 3]))]
    elif kind == "shape":
        numbers = [0, 1, -1, 2, 2**32, 2**63, 2**64, *entry["shape"]]
        entry["shape"] = [rng.choice(numbers) for _ in range(rng.choice([0, 1, 1, 2, 3, 100]))]
    elif kind == "dtype":
        entry["dtype"] = rng.choice(["F8_E4M3", "BF16", "F64", "F32", "I8", "", 3, None, [], "X"])
    elif kind == "many":
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        outer |= {f"t{i}": empty for i in range(rng.choice([2, 20, 2000, 20_000]))}
    elif kind == "metadata":
        outer["__metadata__"] = rng.choice(VALUES)
    else:
        outer[rng.choice(["params", "__metadata__", "x"])] = rng.choice(VALUES)


def judge_headers(folder: Path) -> Judge:
    """What becomes of the forgery of a seed when it is loaded, used, and saved again."""
    known = originals(folder)

    def judge(seed: int) -> tuple[str, str]:
        rng = Random(seed)
        original = rng.choice(known)
        text = forge(original.header, [other.header for other in known], rng)
        path = folder / "forged"
        path.write_bytes(sealed(text, original.tensors, rng))
        try:
            original.use(path)
        except (ValueError, OSError, MemoryError) as error:
            words = f"{type(error).__name__}: {error}"
            if "give no finite prediction" in words:  # large numbers agree as small ones do
                return ("of use", words)
            named = str(error).startswith((f"{path}: not a", f"not enough memory to read {path}"))
            return (
                "refused" if named and "\n" not in words else "loaded, then failed",
                words[:300],
            )
        return ("of use", "")

    return judge


def judge_bytes(folder: Path) -> Judge:
    """What becomes of a file of ours with damage of a seed: refused, or every bit as it was."""
    known = originals(folder)
    sound = [contents_of(original.content) for original in known]

    def judge(seed: int) -> tuple[str, str]:
        rng = Random(seed)
        i = rng.randrange(len(known))
        path, content = folder / "damaged", known[i].content
        damaged = mutant(content, rng.choice(known).content, rng)
        path.write_bytes(damaged)
        try:
            known[i].use(path)
        except (ValueError, OSError, MemoryError) as error:
            words = f"{type(error).__name__}: {error}"
            named = str(error).startswith((f"{path}: not a", f"not enough memory to read {path}"))
            return (
                "refused" if named and "\n" not in words else "loaded, then failed",
                words[:300],
            )
        if contents_of(damaged) not in sound:  # of this file, or of another one that took its place
            return ("altered", "what was loaded is not what was written")
        return ("of use", f"{len(damaged) - len(content)} bytes more")

    return judge


def contents_of(content: bytes) -> tuple[str, dict[str, bytes]]:
    """What a file says and holds, whatever its bytes are."""
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length])["__metadata__"]["nnaccel"]
    return entry, {name: array.tobytes() for name, array in from_bytes(content).items()}
