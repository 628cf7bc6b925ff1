"""Files: what is no file is refused at once, damage is one error, and a write is whole or not."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nnaccel import files
from nnaccel.files import check_expansion, existing_file, reading, reason, writable, write
from nnaccel.training.model_file import load

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limits of Linux's file systems")


def written(path, content=b"content"):
    write(path, content)
    return path


# ---------------------------------------------------------------------------- reading


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
@pytest.mark.parametrize("name", ["pipe", "pipe.csv", "pipe.npz", "pipe.parquet"])
def test_a_pipe_is_refused_at_once_by_every_reader(tmp_path, name):
    pipe = tmp_path / name
    os.mkfifo(pipe)  # opening it would wait for a writer
    readers = [existing_file, load]
    if pipe.suffix:
        pytest.importorskip("pyarrow", reason="tables need the extra [cli]")
        from nnaccel.tabular.sources import read

        readers += [lambda path: read(str(path), "y")]
    for reader in readers:
        with pytest.raises(OSError, match=rf"{name} is a pipe or a device, not a file; save its"):
            reader(pipe)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
def test_a_file_without_an_end_is_refused_at_once():
    for reader in (existing_file, load):
        with pytest.raises(OSError, match="/dev/zero is a pipe or a device, not a file"):
            reader("/dev/zero")


def test_a_folder_and_a_missing_file(tmp_path):
    for reader in (existing_file, load):
        with pytest.raises(IsADirectoryError, match="is a folder, not a file; name one file"):
            reader(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"m\.cvs: no such file"):
            reader(tmp_path / "m.cvs")
    written(tmp_path / "m.csv")
    with pytest.raises(FileNotFoundError, match=r"no such file; did you mean 'm\.csv'\?"):
        existing_file(tmp_path / "m.cvs")
    with pytest.raises(FileNotFoundError, match="no such file; there is no folder .*none$"):
        existing_file(tmp_path / "none" / "m")
    with pytest.raises(FileNotFoundError, match=r"no such file; there is no folder .*m\.csv$"):
        existing_file(tmp_path / "m.csv" / "m")
    with pytest.raises(ValueError, match=r"'a\\x00b' is no name of a file: embedded null"):
        existing_file("a\0b")


def test_a_link_that_leads_nowhere_says_where_to(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("gone")
    with pytest.raises(FileNotFoundError, match="link: no such file; it is a link to gone, which"):
        existing_file(link)
    (tmp_path / "gone").touch()
    assert existing_file(link) == link


@pytest.mark.parametrize(
    "error",
    [
        EOFError("file ended"),
        KeyError("X"),
        RecursionError("too deep"),
        OverflowError("too large"),
        OSError("magic bytes"),
        OSError(errno.EINVAL, "Invalid argument"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ZeroDivisionError(),
    ],
)
def test_damage_is_one_error_with_the_name_and_the_remedy(error):
    with (
        pytest.raises(ValueError, match=r"^m\.npz cannot be read as npz: .+; check that") as caught,
        reading("m.npz", "npz"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_what_is_not_the_fault_of_the_content_stays_what_it_is():
    with pytest.raises(PermissionError, match="13.*'m.npz'"), reading("m.npz", "npz"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(OSError, match="5.*'m.npz'") as caught, reading("m.npz", "npz"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.errno == errno.EIO
    words = "^not enough memory to read m.npz as npz .8 TiB"
    with pytest.raises(MemoryError, match=words), reading("m.npz", "npz"):
        raise MemoryError("8 TiB")
    with pytest.raises(ImportError, match="pyarrow"), reading("m.npz", "npz"):
        raise ImportError("pyarrow")
    with pytest.raises(KeyboardInterrupt), reading("m.npz", "npz"):
        raise KeyboardInterrupt


def test_what_an_error_says_of_a_file_is_one_short_line():
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(KeyError()) == "KeyError"
    assert reason(ValueError("\x1b[2Jé\u202e")) == r"\x1b[2Jé\u202e"
    assert len(reason(ValueError("x" * 10_000))) == 501


def test_what_a_file_may_become(tmp_path, monkeypatch):
    path = written(tmp_path / "m", b"x" * 1000)
    check_expansion(path, files.READ_LIMIT)
    with pytest.raises(ValueError, match="more than 1,073,741,824 bytes .* from 1,000 in"):
        check_expansion(path, files.READ_LIMIT + 1)
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "20000")
    check_expansion(path, 20_000)
    with pytest.raises(ValueError, match="more than 20,000 bytes .*NNACCEL_READ_LIMIT to the"):
        check_expansion(path, 20_001)
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "1")
    check_expansion(path, 16_000)  # 16 times the file is never too much
    monkeypatch.setenv("NNACCEL_READ_LIMIT", "4 GB")
    with pytest.raises(ValueError, match="READ_LIMIT must be a number of bytes, got '4 GB'"):
        check_expansion(path, 1)


# ---------------------------------------------------------------------------- writing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_while_the_bytes_are_written(tmp_path, monkeypatch):
    full = open("/dev/full", "wb")  # noqa: SIM115 -- `write` closes it
    monkeypatch.setattr(files, "_beside", lambda target, path: full)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: None)
    with pytest.raises(OSError, match=r"cannot write .*m \(No space left on device\)"):
        write(tmp_path / "m", b"x" * 100_000)


def test_a_new_file_has_the_mode_of_new_files_and_an_old_one_keeps_its_own(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    path = written(tmp_path / "m")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    written(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_one(tmp_path):
    target = written(tmp_path / "target")
    link = tmp_path / "link"
    link.symlink_to(target.name)
    written(link, b"more")
    assert link.is_symlink()
    assert target.read_bytes() == b"more"


def test_a_link_to_a_file_that_is_not_there_yet_makes_it(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/target")
    writable(link, 100)
    assert not list((tmp_path / "folder").iterdir())
    written(link)
    assert (tmp_path / "folder" / "target").read_bytes() == b"content"
    lost = tmp_path / "lost"
    lost.symlink_to("nowhere/target")
    with pytest.raises(FileNotFoundError, match="lost, a link to nowhere/target, .No such"):
        writable(lost)


def test_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert written(Path("m")).read_bytes() == b"content"


@LINUX
@pytest.mark.parametrize("length", [240, 241, 254, 255])
def test_the_longest_names_are_written(tmp_path, length):
    path = tmp_path / ("m" * length)
    writable(path, 100)
    assert written(path).read_bytes() == b"content"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@LINUX
def test_a_name_too_long_is_refused_before_the_work(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*mm \(File name too long\)") as caught:
        writable(tmp_path / ("m" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"loop, a link to loop, \(Too many levels of symb"):
        writable(tmp_path / "loop")


def test_writable_tries_and_leaves_nothing(tmp_path):
    writable(tmp_path / "m", 1000)
    assert not list(tmp_path.iterdir())
    path = written(tmp_path / "m")
    writable(path, 1000)
    assert path.read_bytes() == b"content"
    assert [child.name for child in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("refused", [writable, written])
def test_what_is_no_file_is_not_written_over(tmp_path, refused):
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        refused(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(IsADirectoryError, match="link is a folder"):
        refused(tmp_path / "link")
    with pytest.raises(FileNotFoundError, match="cannot write .*none/m"):
        refused(tmp_path / "none" / "m")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="pipe is a device or a pipe; give the name of a file"):
            refused(tmp_path / "pipe")


def test_writable_refuses(tmp_path, monkeypatch):
    path = written(tmp_path / "m")
    with monkeypatch.context() as patch:  # of the mode alone the superuser takes no notice
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(PermissionError, match="is write-protected"):
            writable(path)

    def read_only(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", read_only)
    with pytest.raises(PermissionError, match=r"cannot write .*n \(Permission denied\); choose"):
        writable(tmp_path / "n")


def no_space(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def not_supported(*args):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def invalid(*args):
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("reserve", [no_space, not_supported, invalid, None])
def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch, reserve):
    """Whether or not the file system, or the system, can reserve space."""
    if reserve is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", reserve, raising=False)
    if reserve is not no_space:
        writable(tmp_path / "m", 5000)
        nearly_full = shutil.disk_usage(tmp_path)._replace(free=4999)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: nearly_full)
    with pytest.raises(OSError, match=r"cannot write .*m \(no room for 5,000 bytes\)") as caught:
        writable(tmp_path / "m", 5000)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_synchronised_costs_no_file(tmp_path, monkeypatch):
    refused = []

    def of_files_alone(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refused.append(handle)
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", of_files_alone)
    assert written(tmp_path / "m").read_bytes() == b"content"
    assert len(refused) == hasattr(os, "O_DIRECTORY")


# ---------------------------------------------------------------------------- killed writers

LOCKS = pytest.mark.skipif(files.fcntl is None, reason="locks of POSIX")
DYING = """
import os, signal, sys
from nnaccel import files
files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.write(sys.argv[1], b"half")
"""


@LOCKS
def test_what_a_killed_writer_has_left_is_removed_by_the_next_one(tmp_path):
    target = written(tmp_path / "m", b"old")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", DYING, target], check=False)
    left = [path.name for path in tmp_path.iterdir() if path != target]
    assert len(left) == 1  # the second has removed that of the first
    assert left[0].startswith(".nnaccel-")
    assert target.read_bytes() == b"old"
    write(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert target.read_bytes() == b"new"


@LOCKS
def test_what_a_living_writer_is_about_to_rename_stays(tmp_path, monkeypatch):
    """Another file is written into the folder while the first is."""
    replace = os.replace

    def meanwhile(source, target):
        monkeypatch.setattr(files.os, "replace", replace)
        write(tmp_path / "other", b"other")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", meanwhile)
    write(tmp_path / "m", b"content")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "m": b"content",
        "other": b"other",
    }


@LOCKS
def test_a_pipe_with_such_a_name_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / ".nnaccel-x.part")
    assert written(tmp_path / "m").read_bytes() == b"content"
