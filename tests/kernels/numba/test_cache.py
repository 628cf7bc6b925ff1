"""Compiled code on disk: whatever lies in the folder, what it is for goes on, and says so once."""

import errno
import os
import pickle
import re
import warnings
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("numba")
from numba.core import caching, config

from nnaccel.kernels.numba import cache
from nnaccel.kernels.numba.jit import compiled


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "TOLD", set())
    return tmp_path


def kept(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def misses():
    """How often a new process would compile: `double` is right in any case."""
    dispatcher = compiled(double)
    assert dispatcher(21) == 42
    hits = sum(dispatcher.stats.cache_hits.values())
    assert hits + sum(dispatcher.stats.cache_misses.values()) == 1
    return 1 - hits


def test_what_is_compiled_once_is_read_afterwards(folder):
    assert [misses(), misses()] == [1, 0]
    assert len(kept(folder)) == 1


def test_a_change_in_any_source_of_the_folder_compiles_anew(folder, monkeypatch):
    assert misses() == 1
    monkeypatch.setattr(cache, "digest_of_sources", lambda: "another")
    assert [misses(), misses()] == [1, 0]


def verified(pickled):
    return pickled + sha256(pickled).digest()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        *(pytest.param(lambda c, n=n: c[:n], id=f"cut at {n}") for n in (1, 31, 33, 500, -1, -32)),
        pytest.param(lambda content: os.urandom(len(content)), id="noise"),
        pytest.param(lambda content: bytes(len(content)), id="zeros"),
        pytest.param(lambda c: c[:700] + bytes([c[700] ^ 4]) + c[701:], id="one bit"),
        pytest.param(lambda content: content + b"\0", id="longer"),
        pytest.param(lambda content: pickle.dumps("0.61.0"), id="another pickle"),
        pytest.param(lambda content: verified(b""), id="no pickle"),
        pytest.param(lambda content: verified(pickle.dumps({"a": 1})), id="another object"),
        pytest.param(lambda content: verified(b"cnowhere\nNothing\n."), id="an unknown class"),
        pytest.param(lambda content: verified(pickle.dumps((1,) * 9)), id="a tuple"),
    ],
)
def test_a_damaged_file_is_named_and_replaced(folder, damage):
    misses()
    (path,) = kept(folder)
    path.write_bytes(damage(path.read_bytes()))
    message = f"compiled code in the folder {re.escape(str(path.parent))} cannot be read (.+); "
    with pytest.warns(UserWarning, match=message) as warned:
        assert misses() == 1
    assert len(warned) == 1
    assert str(warned[0].message).endswith("; should this come again, delete the folder")
    assert misses() == 0


def test_it_is_said_once(folder):
    misses()
    compiled(triple)(2)
    for path in kept(folder):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="double-.*nbc is damaged") as warned:
        assert [misses(), compiled(triple)(2)] == [1, 6]
    assert len(warned) == 1


def test_a_file_of_somebody_else(folder, monkeypatch):
    misses()

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(cache, "digest_of_sources", lambda: "not read")
    with pytest.warns(UserWarning, match=r"cannot be read \(\[Errno 13\] Permission denied: '"):
        assert misses() == 1


def test_a_full_disk(folder, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.VerifiedFiles, "_dump", full)
    with pytest.warns(UserWarning, match="compiled code cannot be kept in the folder ") as warned:
        assert [misses(), misses()] == [1, 1]
    (message,) = (str(w.message) for w in warned)
    assert message.endswith(
        "([Errno 28] No space left on device); to compile takes seconds; name a folder that can "
        "be written in the environment variable NUMBA_CACHE_DIR"
    )
    assert kept(folder) == []


def test_a_folder_in_the_place_of_a_file(folder):
    misses()
    (path,) = kept(folder)
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="compiled code") as warned:
        assert [misses(), misses()] == [1, 1]
    assert [re.search("cannot be (read|kept)", str(w.message))[1] for w in warned] == [
        "read",
        "kept",
    ]


def test_no_folder_at_all(folder, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.warns(UserWarning, match="compiled code cannot be kept .cannot cache function"):
        dispatcher = compiled(double)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatcher(21) == compiled(double)(21) == 42


def test_a_numba_that_has_other_names_inside(folder, monkeypatch):
    monkeypatch.setattr(caching.Cache, "__init__", lambda cache, function: None)
    with pytest.warns(UserWarning, match="compiled code cannot be kept .+ '_cache_file'"):
        assert compiled(double)(21) == 42
