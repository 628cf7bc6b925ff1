"""What the pages say is so: their quotations, their code, their links."""

import inspect
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnaccel

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "notes.md"
TEXT = PAGE.read_text(encoding="utf-8")


def python_blocks(text):
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(page):
    """The names that the code of a page leaves behind."""
    names = {}
    for block in python_blocks(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), names)
    return names


BLOCKS = python_blocks(TEXT)


def quoted(block):
    """(file, passages) of a block that starts with a file name, else None.

    A passage is a list of lines that follow each other; `...` stands for what is left out.
    """
    first, _, rest = block.partition("\n")
    if not (named := re.fullmatch(r"# (nnaccel/[\w/]+\.py)", first)):
        return None
    passages = re.split(r"^\.\.\.$", rest, flags=re.MULTILINE)
    return named[1], [[line.strip() for line in p.strip().splitlines()] for p in passages]


def missing(passages, source):
    """The passages that are not in the source, in their order, whatever their indentation."""
    lines, position = [line.strip() for line in source.splitlines()], 0
    for passage in passages:
        n = len(passage)
        starts = (i for i in range(position, len(lines) - n + 1) if lines[i : i + n] == passage)
        if (found := next(starts, None)) is None:
            yield "\n".join(passage)
        else:
            position = found + n


QUOTATIONS = [q for block in BLOCKS if (q := quoted(block))]


@pytest.mark.parametrize(("file", "passages"), QUOTATIONS, ids=[file for file, _ in QUOTATIONS])
def test_quoted_lines_are_in_the_library(file, passages):
    assert list(missing(passages, (ROOT / file).read_text(encoding="utf-8"))) == []


def test_there_is_something_to_check():
    assert len(QUOTATIONS) >= 10
    assert len(BLOCKS) - len(QUOTATIONS) >= 5


@pytest.mark.parametrize(
    ("passages", "found"),
    [
        pytest.param([["a = 1", "b = 2"]], True, id="indented"),
        pytest.param([["a = 1"], ["c = 3"]], True, id="something left out"),
        pytest.param([["a = 1", "c = 3"]], False, id="not adjacent"),
        pytest.param([["c = 3"], ["a = 1"]], False, id="in another order"),
        pytest.param([["a = 10"]], False, id="changed"),
        pytest.param([["a ="]], False, id="half a line"),
    ],
)
def test_a_false_quotation_is_found(passages, found):
    source = "def f():\n    a = 1\n    b = 2\n    c = 3\n"
    assert (list(missing(passages, source)) == []) == found


def test_the_code_runs():
    names = {}
    for block in BLOCKS:
        if quoted(block) is None:
            exec(compile(block, str(PAGE), "exec"), names)


def test_links_lead_somewhere():
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_figures_are_small_and_used():
    figures = sorted((PAGE.parent / "figures").glob("*.png"))
    assert [figure for figure in figures if f"(figures/{figure.name})" not in TEXT] == []
    assert [figure for figure in figures if figure.stat().st_size > 100_000] == []


def test_every_figure_can_be_redrawn():
    pytest.importorskip("matplotlib")
    script = runpy.run_path(str(PAGE.parent / "figures.py"))
    assert {path.stem for path in script["FOLDER"].glob("*.png")} == set(script["FIGURES"])


def test_the_code_of_the_readme_runs(capsys):
    run(ROOT / "README.md")
    assert float(capsys.readouterr().out.split()[-1]) > 0.95  # the accuracy that it prints


def test_links_of_all_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md"]
    for page in [*pages, *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\[[^\]]+\]\((?!https?:)([^)#\s,]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_on_trained_models_runs(tmp_path, monkeypatch, capsys):
    for package in ("matplotlib", "onnx", "onnxruntime", "torch", "pandas", "pyarrow", "rich"):
        pytest.importorskip(package, reason=f"the page needs {package}")
    from nnaccel.cli.main import main

    text = (ROOT / "docs" / "trained_models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks].count("sh") >= 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "trained_models.md", "exec"), names)
            continue
        for line in block.splitlines():
            assert main(shlex.split(line, comments=True)[1:]) == 0, capsys.readouterr().err
    expected = names["model"].outputs(names["table"])
    np.testing.assert_allclose(names["P"], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(names["predict"](names["table"]), names["label"])


# The other pages with code


def test_the_code_of_in_python_runs(tmp_path, monkeypatch):
    for extra in ("sklearn", "pyarrow"):
        pytest.importorskip(extra, reason="tables need the extra [cli]")
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs" / "in_python.md")
    accuracy = np.mean(names["Z"].argmax(axis=-1) == names["y"])  # of the loop of one's own
    assert accuracy > 0.95
    assert names["last"].loss.shape == (5,)
    assert names["stopping"].best.validation_metric > 0.5


def test_the_code_of_tuning_runs_and_its_table_is_the_space(tmp_path, monkeypatch):
    for extra in ("sklearn", "pyarrow"):
        pytest.importorskip(extra, reason="tables need the extra [cli]")
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "tuning.md"
    names = run(page)
    assert names["rung"].best.loss <= names["rung"].trials[0].loss
    assert nnaccel.Rung.load("search.checkpoint").trials == names["rung"].trials
    rows = [f"| `{name}` | `{drawn!r}` |" for name, drawn in names["SPACE"].items()]
    assert "\n".join(["|---|---|", *rows, "\n"]) in page.read_text(encoding="utf-8")


def test_the_code_of_get_started_runs():
    names = run(ROOT / "docs" / "get_started.md")
    assert names["epoch"].metric > 0.8
    assert names["P"].shape == (500, 2)


def test_the_code_of_resuming_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs" / "resuming.md")
    *_, undisturbed = names["run"]()
    assert names["saved"].epoch.number == 3
    assert names["epoch"].number == undisturbed.number
    np.testing.assert_array_equal(names["epoch"].params, undisturbed.params)


def test_the_code_of_displays_runs(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the page is on estimators")
    matplotlib = pytest.importorskip("matplotlib", reason="displays need the extra [plot]")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")
    [block] = python_blocks(page[page.index("## Displays") : page.index("## Arrays and devices")])
    names = {}
    exec(compile(block, "estimators.md", "exec"), names)
    assert names["curves"].best_epoch_ == np.argmin(names["clf"].validation_loss_curve_) + 1
    assert (tmp_path / "loss.png").stat().st_size > 1000
    matplotlib.pyplot.close("all")


# The site


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    objects = re.findall(r"^\.\. auto(?:class|function):: (?:nnaccel\.)?(\w+)$", text, re.MULTILINE)
    headings = re.findall(r"^nn\.(\w+)\n~+$", text, re.MULTILINE)
    assert sorted(objects) == sorted(nnaccel._PUBLIC)
    assert sorted(headings) == sorted(nnaccel._MODULES)
    modules = re.findall(r"^\.\. automodule:: (.*)$", text, re.MULTILINE)
    assert modules == [getattr(nnaccel, name).__name__ for name in headings]
    assert all(inspect.getdoc(getattr(nnaccel, name)) for name in objects)


def test_every_page_is_in_the_sidebar():
    docs = ROOT / "docs"
    text = (docs / "index.md").read_text(encoding="utf-8")
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    entries = [line for table in tables for line in table.splitlines() if line[:1].isalpha()]
    listed = [name for e in entries for name in re.findall(r"[\w*]+(?=>?$)", e)]
    pages = {page.stem for name in listed for page in docs.glob(f"{name}.*")}
    assert pages == {page.stem for page in [*docs.glob("*.md"), *docs.glob("*.rst")]} - {"index"}


def test_the_design_is_read_in_ten_minutes():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert len(text.split()) < 2_700  # at 270 words a minute


KERNELS = ROOT / "nnaccel" / "kernels"
BACKEND_PAGES = {
    "numpy": KERNELS / "numpy",
    "numba": KERNELS / "numba",
    "cuda": KERNELS / "cuda",
    "torch": KERNELS / "torch.py",
    "jax": KERNELS / "jax.py",
}


@pytest.mark.parametrize(("name", "code"), BACKEND_PAGES.items(), ids=BACKEND_PAGES)
def test_the_page_of_a_backend_names_each_of_its_files(name, code):
    text = (ROOT / "docs" / f"backend_{name}.md").read_text(encoding="utf-8")
    files = [code] if code.suffix else [p for p in code.glob("*.py") if p.stem != "__init__"]
    assert files
    assert [file.name for file in files if file.name not in text] == []


def test_every_folder_of_kernels_has_a_page():
    found = {
        path.stem for path in KERNELS.iterdir() if path.is_dir() and path.stem != "__pycache__"
    }
    assert found <= set(BACKEND_PAGES)


def test_every_page_begins_with_a_sentence():
    bare = {"index.md", "benchmarks.md", "contributing.md"}  # the site shows other files there
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name not in bare]
    pages += [ROOT / "README.md", ROOT / "bench" / "README.md"]
    firsts = {page: page.read_text(encoding="utf-8").split("\n\n")[1] for page in pages}
    assert [page.name for page, first in firsts.items() if not re.match(r"[A-Z].*\w", first)] == []


def test_the_site_builds_without_a_warning(tmp_path):
    for library in ("sphinx", "myst_parser", "pydata_sphinx_theme", "pyarrow"):
        pytest.importorskip(library, reason="the site needs the extra [docs]")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nnaccel.train" in (tmp_path / "api.html").read_text(encoding="utf-8")
