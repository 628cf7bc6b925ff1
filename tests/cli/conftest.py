"""A command in this process, one that fails, and models that are trained once."""

import pytest

from nnaccel.cli.main import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command; its lines on standard output, after a check of its exit status."""

    def run(*argv, status=0):
        capsys.readouterr()
        assert main([*map(str, argv)]) == status
        run.out, run.err = capsys.readouterr()
        return run.out

    return run


@pytest.fixture
def error(capsys, here):
    """Run a command that fails: status 2, and one line on standard error, which is returned.

    Nothing is printed or written, and no warning follows the error.
    """

    def error(*argv):
        capsys.readouterr()
        before = sorted(child.name for child in here.iterdir())
        assert main([*map(str, argv)]) == 2
        out, err = capsys.readouterr()
        *warned, line = err.splitlines()
        assert all(other.startswith("nnaccel: warning: ") for other in warned)
        assert line.startswith("nnaccel: error: ")
        assert out == ""
        assert sorted(child.name for child in here.iterdir()) == before
        return line.removeprefix("nnaccel: error: ")

    return error


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model of classes, one of numbers, and the table that both know."""
    from tests.cli.examples import columns, write

    folder = tmp_path_factory.mktemp("trained")
    source = write(folder / "d.csv", columns())
    common = (source, "--drop", "name", "--epochs", "12", "--hidden", "32")
    assert main(["train", *common, "--target", "label", "--output", f"{folder}/label"]) == 0
    assert main(["train", *common, "--target", "price", "--output", f"{folder}/price"]) == 0
    return folder
