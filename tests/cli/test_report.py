"""`nnaccel train --report`: what it writes, and what it refuses."""

import errno

import pytest

pytest.importorskip("pyarrow", reason="the command line needs the extra [cli]")
pytest.importorskip("rich", reason="the command line needs the extra [cli]")

import nnaccel.files
from nnaccel.reporting import page
from tests.cli.examples import columns, write

ONE = ("--members", "1", "--hidden", "4", "--epochs", "2")


def test_it_tells_of_the_run(run, here):
    source = write(here / "d.csv", columns())
    run("train", source, "--target", "label", *ONE, "--report", "r.html", "--drop", "name")
    said = run.err.splitlines()
    assert said[-1] == "r.html written"
    text = (here / "r.html").read_text(encoding="utf-8")
    assert "Classification of &#x27;label&#x27;" in text
    assert f"nnaccel train {source} --target label --members 1" in text
    assert "<td>not used: constant</td>" in text
    accuracy = next(line for line in run.out.splitlines() if line.startswith("accuracy")).split()
    assert f"<dd>{accuracy[1]}<small>" in text
    plan = next(line for line in run.out.splitlines() if line.startswith("adamw, "))
    assert plan in text


def test_the_warnings_of_the_table_are_in_it(run, here):
    (here / "d.csv").write_text(
        "\n".join(["a,y", *(f"{i if i % 9 else '?'},{i % 7}.5" for i in range(60)), "1,"])
    )
    run("train", "d.csv", "--target", "y", *ONE, "--report", "r.html")
    [warned] = [line for line in run.err.splitlines() if "without a 'y'" in line]
    message = warned.removeprefix("nnaccel: warning: ").replace("'", "&#x27;")
    assert f"<li>{message}</li>" in (here / "r.html").read_text(encoding="utf-8")


def test_a_resumed_run_tells_of_all_its_epochs(run, here):
    run("train", "iris", *ONE, "--checkpoint", "c")
    run("train", "iris", *ONE[:-1], "4", "--resume", "c", "--report", "r.html")
    text = (here / "r.html").read_text(encoding="utf-8")
    assert "<dd>4 of at most 4</dd>" in text
    assert "loss by epoch, 4 epochs" in text


def test_a_streamed_run_has_a_report(run, here):
    source = write(here / "d.csv", columns())
    options = ("--target", "price", "--drop", "name", "label")
    run("train", source, *options, *ONE, "--stream", "--report", "r.html")
    text = (here / "r.html").read_text(encoding="utf-8")
    rmse = next(line for line in run.out.splitlines() if line.startswith("RMSE")).split()[1]
    assert f"<dd>{rmse}<small>" in text
    assert "Residuals of price" in text
    assert "Permutation importance." in text
    assert '<td class="number">some</td>' in text  # its missing values have not been counted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--report", "r.txt"), "--report must end in .html, got r.txt"),
        (("--report", "no/r.html"), "cannot write no/r.html (No such file or directory); choose"),
        (
            ("--report", "r.html", "--output", "r.html"),
            "--report names r.html, as another option does; choose another",
        ),
        (
            ("--report", "r.html", "--json", "./r.html"),
            "--report names r.html, as another option does; choose another",
        ),
    ],
)
def test_wrong_usage_is_said_before_training(error, options, message):
    assert error("train", "iris", *ONE, *options).startswith(message)


def test_the_table_itself_is_not_written_over(error, here):
    write(here / "d.csv", columns())
    (here / "d.html").symlink_to("d.csv")
    line = error("train", "d.csv", "--target", "label", *ONE, "--report", "d.html")
    assert line == "d.html is read or written by this command; choose another --report"


def test_a_full_disk_costs_a_warning(run, here, monkeypatch):
    def full(path, content):
        error = OSError(errno.ENOSPC, "No space left on device")
        raise nnaccel.files._unwritable(path, error, error.strerror)

    monkeypatch.setattr(page, "write", full)
    run("train", "iris", *ONE, "--report", "r.html")
    assert run.err.splitlines()[-1] == (
        "nnaccel: warning: no report: cannot write r.html (No space left on device); choose "
        "another place; the model is written"
    )
    assert (here / "iris.safetensors").exists()
    assert not (here / "r.html").exists()


def test_an_older_report_is_replaced_and_the_option_may_be_in_a_configuration(run, here):
    (here / "r.html").write_text("older")
    (here / "run.yaml").write_text("report: r.html\nepochs: 1\nhidden: [4]\nmembers: 1\n")
    run("train", "iris", "--config", "run.yaml")
    assert (here / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
