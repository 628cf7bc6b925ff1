"""The order of the house: what may import what, read from the source.

Imports go downward, or stay on their floor without a circle; the mathematics imports no array
library; the big libraries are imported when they are used, never at the top of a module.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import nnaccel

ROOT = Path(nnaccel.__file__).parent

# Folders are floors, and so are the few modules that everything may use.
FLOORS = [
    ["typing", "arguments", "files", "schema", "ops"],
    ["devices"],
    ["maths"],
    ["kernels"],
    ["training"],
    ["tabular", "export"],  # a model writes itself as a file of others
    ["estimators"],
    ["cli", "reporting"],  # a page about a run says what the command line says
    ["__init__", "__main__"],  # the front of the house: it shows every floor
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Modules that may load a big library when they are loaded: nothing else imports them at its top.
BACKENDS = re.compile(r"kernels/(cuda/\w+|numba/\w+|torch|jax)\.py")

BIG = {"cupy", "torch", "jax", "numba", "onnx", "matplotlib"}
ARRAY_LIBRARIES = {"numpy", "array_api_compat", *BIG}


class Import(NamedTuple):
    target: str  # dotted, with the imported name: a module or something in one
    line: int
    lazy: bool  # in a function, so not done when the module is loaded
    types_only: bool  # under `if TYPE_CHECKING`, so never done


def imports(source: str, package: str) -> Iterator[Import]:
    """The imports of a module of that package, at whatever depth."""

    def walk(node: ast.AST, lazy: bool, types_only: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno, lazy, types_only)
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                parts = (above if node.level else []) + ([node.module] if node.module else [])
                for alias in node.names:
                    yield Import(".".join([*parts, alias.name]), node.lineno, lazy, types_only)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for child in node.body:
                    yield from walk(child, lazy, True)
                for child in node.orelse:
                    yield from walk(child, lazy, types_only)
            case _:
                lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for child in ast.iter_child_nodes(node):
                    yield from walk(child, lazy, types_only)

    return walk(ast.parse(source), False, False)


def faults(sources: dict[str, str], floor: dict[str, int]) -> Iterator[str]:
    """What breaks the order, in words.  sources: path below the package -> text of the module."""
    modules = {path.removesuffix(".py").replace("/", "."): path for path in sources}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph = {name: set() for name in modules}

    for name, path in modules.items():
        room = name.partition(".")[0]
        if (here := floor.get(room)) is None:
            yield f"{path}: has no floor; give it one in FLOORS"
            continue
        is_package = path.endswith("__init__.py")
        package = "nnaccel" if name == "__init__" else f"nnaccel.{name}"
        if name != "__init__" and not is_package:
            package = package.rpartition(".")[0]
        for found in imports(sources[path], package):
            library, _, inner = found.target.partition(".")
            if library in ARRAY_LIBRARIES and not found.types_only:
                if room == "maths":
                    yield f"{path}:{found.line}: imports {library} on the floor of the mathematics"
                elif library in BIG and not found.lazy and not BACKENDS.fullmatch(path):
                    yield f"{path}:{found.line}: imports {library} when it is loaded"
            if library != "nnaccel" or inner == "__version__":
                continue
            target = inner if inner in modules else inner.rpartition(".")[0] or "__init__"
            if target not in modules:
                yield f"{path}:{found.line}: imports {target}, which does not exist"
            elif floor.get(target.partition(".")[0], here) > here:
                yield f"{path}:{found.line}: imports {target}, upward from the floor of {room}"
            elif not found.types_only:
                graph[name].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"imports go round in a circle: {' -> '.join(reversed(error.args[1]))}"


def test_the_house_is_in_order():
    sources = {str(p.relative_to(ROOT).as_posix()): p.read_text() for p in ROOT.rglob("*.py")}
    assert list(faults(sources, FLOOR)) == []


def test_no_file_is_a_drawer_for_anything():
    names = {p.stem for p in ROOT.rglob("*") if "__pycache__" not in p.parts}
    assert not names & {"utils", "util", "helpers", "helper", "base", "common", "misc", "_src"}


# The test of the test: small houses, each with one fault or none


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        pytest.param({"low.py": "import math", "high.py": "from nnaccel.low import x"}, None),
        pytest.param(
            {"low.py": "from nnaccel import high", "high.py": ""}, "from the floor of low"
        ),
        pytest.param({"low.py": "import nnaccel.high", "high.py": ""}, "from the floor of low"),
        pytest.param({"low.py": "from nnaccel.high import x", "high.py": ""}, "upward"),
        pytest.param({"low.py": "from .high import x", "high.py": ""}, "upward"),
        pytest.param({"low.py": "from . import high", "high.py": ""}, "upward"),
        pytest.param({"low.py": "def f():\n  import nnaccel.high", "high.py": ""}, "low.py:2"),
        pytest.param({"low.py": "from nnaccel import Public", "__init__.py": ""}, "upward"),
        pytest.param({"low.py": "from nnaccel import __version__", "__init__.py": ""}, None),
        pytest.param({"part/__init__.py": "from .a import x", "part/a.py": ""}, None),
        pytest.param({"part/a.py": "from ..high import x", "high.py": ""}, "upward"),
        pytest.param({"part/a.py": "from nnaccel.part import b", "part/b.py": ""}, None),
        pytest.param({"stray.py": ""}, "stray.py: has no floor"),
        pytest.param({"low.py": "from nnaccel.lost import x"}, "lost, which does not exist"),
        pytest.param(
            {"low.py": "from nnaccel import twin", "twin.py": "def f():\n  import nnaccel.low"},
            "circle: ",
        ),
        pytest.param(
            {
                "low.py": "from nnaccel import twin",
                "twin.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                "  from nnaccel.low import T",
            },
            None,
        ),
        pytest.param({"maths/a.py": "import numpy as np"}, "on the floor of the mathematics"),
        pytest.param({"maths/a.py": "def f():\n  import array_api_compat.numpy"}, "a.py:2"),
        pytest.param(
            {"maths/a.py": "import typing\nif typing.TYPE_CHECKING:\n  import torch"}, None
        ),
        pytest.param({"high.py": "import numpy"}, None),
        pytest.param({"high.py": "from torch import nn"}, "torch when it is loaded"),
        pytest.param({"high.py": "try:\n  import cupy\nexcept ImportError: pass"}, "high.py:2"),
        pytest.param({"high.py": "class A:\n  import jax.numpy as jnp"}, "jax when it is loaded"),
        pytest.param({"high.py": "def f():\n  import jax"}, None),
        pytest.param({"kernels/cuda/workspace.py": "import cupy"}, None),
        pytest.param({"kernels/numpy/workspace.py": "import numpy"}, None),
        pytest.param({"kernels/epoch.py": "import cupy"}, "cupy when it is loaded"),
        pytest.param(
            {
                "kernels/torch.py": "from nnaccel.kernels.numpy import b",
                "kernels/numpy/b.py": "def f():\n  import nnaccel.kernels.torch",
            },
            "circle: ",
        ),
    ],
)
def test_a_house_in_disorder_is_found(sources, fault):
    floor = {"low": 1, "twin": 1, "part": 1, "maths": 1, "kernels": 2, "high": 2, "__init__": 3}
    found = list(faults(sources, floor))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


# The front door


def test_importing_the_library_loads_nothing_but_numpy_and_array_api_compat():
    code = (
        "import sys; before = set(sys.modules); import nnaccel;"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert loaded - set(sys.stdlib_module_names) <= {"nnaccel", "numpy", "array_api_compat"}


def test_every_public_name_is_there():
    for name in nnaccel.__all__:
        assert getattr(nnaccel, name) is not None
    assert dir(nnaccel) == nnaccel.__all__
    with pytest.raises(AttributeError, match="module 'nnaccel' has no attribute 'Netwrok'"):
        nnaccel.Netwrok  # noqa: B018


def test_every_layer_is_public():
    for layer in nnaccel.layers.LAYERS.values():
        assert getattr(nnaccel, layer.__name__) is layer


def test_type_checkers_see_the_public_names():
    assert (ROOT / "py.typed").exists()  # PEP 561: the annotations are for users too
    source = (ROOT / "__init__.py").read_text()
    seen = {i.target for i in imports(source, "nnaccel") if i.types_only}
    assert seen == {f"nnaccel.{module}.{name}" for name, module in nnaccel._PUBLIC.items()}


# Arguments: few, and by name

# Functions that take more than nine arguments, and why.
MANY_ARGUMENTS = {
    "train": "the settings of a run, each by its name",
    "tune": "the settings of a search, and of the fits in it",
    "check_gradients": "what `value_and_grad` takes, and how to compare",
    "__init__ of MLPClassifier": "scikit-learn's parameters",
    "__init__ of MLPRegressor": "scikit-learn's parameters",
    "__init__ of TableClassifier": "the settings, as scikit-learn wants them",
    "__init__ of TableRegressor": "the settings, as scikit-learn wants them",
    # The equation of Adam has ten quantities, and a kernel has the parameters of its definition.
    "adam_update": "Adam's equation",
    "adam": "Adam's equation",
    "gemm": "the signature of the BLAS",
}


def functions(tree):
    """(name, arguments without self, line) of every function in a module."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                names = [a.arg for a in (*child.args.args, *child.args.kwonlyargs)]
                of = f" of {node.name}" if isinstance(node, ast.ClassDef) else ""
                name = child.name + of if child.name == "__init__" else child.name
                yield name, [n for n in names if n not in ("self", "cls")], child.lineno


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_take_few_arguments_and_no_call_unpacks_tuples(path):
    tree = ast.parse(path.read_text())
    for name, arguments, line in functions(tree):
        assert len(arguments) <= 9 or name in MANY_ARGUMENTS, f"{path}:{line}: {name}"
    for node in ast.walk(tree):
        for argument in node.args if isinstance(node, ast.Call) else ():
            unpacked = isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Tuple)
            assert not unpacked, f"{path}:{node.lineno}: f(*(a, b)) hides the arguments"
