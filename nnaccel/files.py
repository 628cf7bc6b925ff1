"""Reads files within limits, with errors of one line, and writes files whole or not at all."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnaccel.arguments import did_you_mean

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PART = ".nnaccel-", ".part"  # prefix and suffix of the name of a file that is being written
STREAM = "-"  # the name for standard input or output
COMPLETE = "check that the file is complete and is what its name says"
READ_LIMIT = 2**30  # bytes of a file in memory, unless the environment sets another number
EXPANSION = 16  # or this many times its size, if that is more: few tables compress further
# Errors of the system that damaged content may cause, since it leads a reader to invalid positions
# in the file. Other errors do not come from the content.
MISLED = {None, errno.EINVAL, errno.EOVERFLOW}
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


# ---------------------------------------------------------------------------- reading


class Unreadable(ValueError):
    """A refused file. The message is complete and names the file."""


def existing_file(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is a plain file, which has an end.

    Raises FileNotFoundError with the closest name in the folder; IsADirectoryError; OSError for a
    pipe or a device, which may never end; ValueError for an impossible name of a file.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file{_why_missing(path)}") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no name of a file: {error}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder, not a file; name one file inside it")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is a pipe or a device, not a file; save its data as a file")
    return path


def _why_missing(path: Path) -> str:
    if path.is_symlink():
        return f"; it is a link to {os.readlink(path)}, which is not there"
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    with suppress(OSError):
        return did_you_mean(path.name, os.listdir(path.parent))
    return ""


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """A context that turns any error of a library about the content of a file into one that names
    the file.

    kind: the format as which it is read.   MemoryError keeps its type, and so do errors of the
    system. Only calls of the library belong in the context: a fault of nnaccel would look like
    damage.
    """
    try:
        yield
    except (Unreadable, ImportError):
        raise
    except MemoryError as error:
        words = f"not enough memory to read {path} as {kind} ({reason(error)})"
        raise MemoryError(words) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in MISLED:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise Unreadable(f"{path} cannot be read as {kind}: {reason(error)}; {COMPLETE}") from error


def reason(error: Exception) -> str:
    """The message of an error about a file, as one line of limited length; without a message, its
    type."""
    said = str(error).strip().partition("\n")[0]
    return printable(said[:500]) + "…" * (len(said) > 500) or type(error).__name__


def printable(text: str) -> str:
    """Text from a file for a message, on one line, with unprintable characters as Python escapes
    them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def check_expansion(path: str | os.PathLike[str], size: int) -> None:
    """Raises ValueError if `size` bytes in memory are too many for the size of the file.

    The limit is `READ_LIMIT`, 1 GiB, or `EXPANSION`, 16, times the size of the file, whichever is
    more. The environment variable NNACCEL_READ_LIMIT replaces the first number.
    """
    text = os.environ.get("NNACCEL_READ_LIMIT") or str(READ_LIMIT)
    if not text.isdecimal():
        raise Unreadable(f"NNACCEL_READ_LIMIT must be a number of bytes, got {text!r}")
    limit = max(int(text), EXPANSION * os.path.getsize(path))
    if size > limit:
        raise Unreadable(
            f"{path} becomes more than {limit:,} bytes when it is read, from "
            f"{os.path.getsize(path):,} in the file; if it is no trap, set the environment "
            "variable NNACCEL_READ_LIMIT to the bytes that it may become"
        )


# ---------------------------------------------------------------------------- writing


def writable(path: str | os.PathLike[str], size: int = 0) -> None:
    """Raises OSError if a file of `size` bytes cannot be written there. Call it before the work.

    It writes a temporary file in the same folder, and removes it.
    """
    target, mode = _target(path)
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(f"{path} is write-protected; choose another name")
    with _beside(target, path) as file:
        try:
            _make_room(file, path, size)
        finally:
            os.unlink(file.name)


def write(path: str | os.PathLike[str], content: Any) -> None:
    """Write a file durably and atomically, keeping the mode of the one it replaces.

    content: bytes.   A link stays, and its target is replaced.   Files that killed writers have
    left in the folder are removed.   Raises OSError, also if a folder, a pipe or a device has that
    name.
    """
    with whole_file(path) as file, writing(path):
        file.write(content)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """A context that turns an error of the system into one that names the file and the reason."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error, error.strerror or str(error)) from None


@contextmanager
def whole_file(path: str | os.PathLike[str], size: int = 0) -> Iterator[Any]:
    """A context with an open file of `size` bytes, for content that is written in parts. The file
    gets its name when all of it has reached the disk; after an error, or if the writer is killed,
    it never does.

    Otherwise it works like `write`.   Raises OSError, before anything is written, if the disk has
    no space for `size` bytes.
    """
    target, mode = _target(path)
    _remove_leftovers(target.parent)
    file = _beside(target, path)
    try:
        _make_room(file, path, size)
        yield file
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask() if mode is None else mode & 0o7777)
            if fcntl is None:  # a system that cannot rename an open file
                file.close()
            os.replace(file.name, target)
            file.close()  # releases the lock, now that the file has its name
    finally:
        with suppress(OSError):  # the content of its buffer would fail again
            file.close()
        with suppress(OSError):
            Path(file.name).unlink(missing_ok=True)
    _sync_folder(target.parent)


def _make_room(file: Any, path: str | os.PathLike[str], size: int) -> None:
    """Raises OSError if the disk has no space for a file of that size."""
    try:
        _reserve(file, size)
    except OSError as error:
        raise _unwritable(path, error, f"no room for {size:,} bytes") from None


def _target(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """The file to write, after following links, and its mode; None for a new file."""
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, None
    except OSError as error:
        raise _unwritable(path, error, error.strerror) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is a device or a pipe; give the name of a file")
    return target, mode


def _beside(target: Path, path: str | os.PathLike[str]) -> Any:
    """A new file in the folder of `target`, open for writing. The caller has to remove it.

    Its name does not contain that of `target`, so that it cannot be too long. While it is open it
    is locked, which shows that its writer is alive.   path: the user's name of the file.
    """
    start, end = PART
    try:
        while True:
            file = tempfile.NamedTemporaryFile(  # noqa: SIM115 -- its user closes it
                dir=target.parent, prefix=start, suffix=end, delete=False
            )
            _lock(file.fileno(), wait=True)  # until no other writer checks it
            if os.path.exists(file.name):  # else another writer removed it before the lock
                return file
            file.close()
    except OSError as error:
        raise _unwritable(path, error, error.strerror) from None


def _remove_leftovers(folder: Path) -> None:
    """Removes the files of killed writers: files with nnaccel's names that are not locked."""
    start, end = PART
    with suppress(OSError):  # a folder that cannot be listed
        for name in os.listdir(folder):
            if name.startswith(start) and name.endswith(end):
                with suppress(OSError), open(folder / name, "rb", opener=_at_once) as file:
                    if _lock(file.fileno()):
                        os.unlink(file.name)


def _at_once(path: str, flags: int) -> int:
    """Opens a file without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Locks an open file until it is closed or the process ends. Returns False if another process
    has the lock, or the system or its file system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _reserve(file: Any, size: int) -> None:
    """Raises OSError if the disk has no space for a file of that size."""
    if not size:
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:  # some systems and file systems cannot reserve space
        if getattr(error, "errno", None) in FULL:
            raise
        if shutil.disk_usage(os.path.dirname(file.name)).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None


def _sync_folder(folder: Path) -> None:
    """Writes a folder to the disk, since it holds the name of a new file.

    Some file systems cannot do that, and a folder may be writable but not readable. The file itself
    is complete in any case.
    """
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):
            handle = os.open(folder, os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _unwritable(path: str | os.PathLike[str], error: OSError, reason: str | None) -> OSError:
    link = f", a link to {os.readlink(path)}," if os.path.islink(path) else ""
    return type(error)(error.errno, f"cannot write {path}{link} ({reason}); choose another place")


def _umask() -> int:
    """The process's mask for the modes of new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
