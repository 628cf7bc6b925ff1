"""Mutants of small table files in every format that `nnaccel.tabular.sources.read` takes."""

import datetime
import decimal
import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv, feather, ipc, parquet

from nnaccel.tabular.features import fit_features
from nnaccel.tabular.sources import Examples, read
from nnaccel.tabular.targets import fit_target
from tests.fuzz.mutants import mutant
from tests.fuzz.pool import Judge


class Original(NamedTuple):
    """A sound file: the end of its name, its content, and how its mutants are packed.

    pack: what makes a file of the mutant of `content`, so that damage lies beneath a checksum.
    """

    suffix: str
    content: bytes
    pack: Callable[[bytes], bytes] = bytes


def plain_table() -> pa.Table:
    n = 40
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "x": rng.standard_normal(n),
            "n": rng.integers(-5, 5, n),
            "s": [f"text {i % 7}é" for i in range(n)],
            "b": [i % 3 == 0 for i in range(n)],
            "m": [None if i % 5 == 0 else float(i) for i in range(n)],
            "y": ["yes" if i % 2 else "no" for i in range(n)],
        }
    )


def rich_table() -> pa.Table:
    """Columns of all kinds."""
    n, table = 40, plain_table()
    columns = {
        "d": pa.array([f"level {i % 4}" for i in range(n)]).dictionary_encode(),
        "l": pa.array([str(i) for i in range(n)], pa.large_string()),
        "v": pa.array(["a long enough view of text" * (i % 3) for i in range(n)], pa.string_view()),
        "f": pa.array(np.arange(n, dtype="float16")),
        "u": pa.array(np.arange(n, dtype="uint64")),
        "c": pa.array([decimal.Decimal(i) / 4 for i in range(n)]),
        "t": pa.array([datetime.date(2020, 1, 1 + i % 28) for i in range(n)]),
        "i": pa.array([[i] * (i % 3) for i in range(n)]),
        "r": pa.array([{"a": i} for i in range(n)]),
        "z": pa.nulls(n),
        "e": pa.array([b"bytes"] * n),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def text(table: pa.Table, delimiter: str = ",") -> bytes:
    sink = io.BytesIO()
    csv.write_csv(table, sink, csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue()


def columnar(table: pa.Table, compression: str, **options: object) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression=compression, **options)
    return sink.getvalue()


def arrow(table: pa.Table, compression: str) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(table, sink, compression=compression)
    return sink.getvalue()


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)
    return sink.getvalue()


def zipped(member: bytes) -> bytes:
    """An NPZ file with that array X, and a sound y."""
    y, sink = io.BytesIO(), io.BytesIO()
    np.save(y, np.arange(20) % 2)
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("X.npy", member)
        file.writestr("y.npy", y.getvalue())
    return sink.getvalue()


def originals() -> list[Original]:
    plain, rich = plain_table(), rich_table()
    some = rich.drop_columns(["t", "i", "r", "e"])  # that can be encoded
    X, sink, packed, member = (
        np.arange(60.0).reshape(20, 3),
        io.BytesIO(),
        io.BytesIO(),
        io.BytesIO(),
    )
    np.savez(sink, X=X, y=np.arange(20) % 2, other=np.array(["a"]))
    np.savez_compressed(packed, X_train=X, y_train=X[:, 0], X_test=X, y_test=X[:, 0])
    np.save(member, X)
    # The seed of a pack's time would make equal mutants different files.
    return [
        Original(".csv", text(plain)),
        Original(".tsv", text(plain, "\t")),
        Original(".csv.gz", gzip.compress(text(plain), mtime=0)),
        Original(".csv.gz", text(plain), lambda data: gzip.compress(data, 1, mtime=0)),
        Original(".parquet", columnar(some, "none")),
        Original(".parquet", columnar(some, "snappy", data_page_version="2.0")),
        Original(".parquet", columnar(rich, "zstd", write_statistics=False)),
        Original(".feather", arrow(some, "uncompressed")),
        Original(".feather", arrow(some, "lz4")),
        Original(".feather", arrow(rich, "zstd")),
        Original(".arrow", stream(some)),
        Original(".arrow", stream(rich)),
        Original(".npz", sink.getvalue()),
        Original(".npz", packed.getvalue()),
        Original(".npz", member.getvalue(), zipped),
    ]


def judge_tables(folder: Path) -> Judge:
    """What becomes of the mutant of a seed when it is read, and encoded as for training."""
    known = originals()

    def judge(seed: int) -> tuple[str, str]:
        rng = Random(seed)
        original = rng.choice(known)
        content = original.pack(mutant(original.content, rng.choice(known).content, rng))
        path = folder / f"mutant{original.suffix}"
        path.write_bytes(content)
        try:
            examples = read(str(path), None if original.suffix == ".npz" else "y")
        except (ValueError, OSError, MemoryError) as error:
            named = str(path) in str(error) and "\n" not in str(error)
            return ("refused" if named else "no name", f"{type(error).__name__}: {error}")
        return use(examples)

    return judge


def use(examples: Examples) -> tuple[str, str]:
    """Encode them, which may be refused in words, and the same rows once more, which may not."""
    try:
        features = fit_features(examples.data, names=examples.names)
        target = fit_target(examples.y, examples.task, examples.target)
    except ValueError as error:
        return ("of use" if "\n" not in str(error) else "several lines", str(error))
    X, Y = features.transform(examples.data), target.encode(examples.y)
    sound = X.shape == (len(Y), len(features.names)) and np.isfinite(X).all()
    target.decode(Y)
    return ("of use" if sound else "not finite", "encoded")
