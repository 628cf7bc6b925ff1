"""Collects the source text of functions, with everything that they use, for a self-contained
file."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pprint import pformat
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

MODULES = ("itertools", "math", "numpy")  # modules that the file may import
PLAIN = (bool, int, float, str)
WIDTH = 100


def assigned(name: str, value: Any) -> str:
    """The assignment of plain data, on lines of limited length."""
    head = f"{name} = "
    text = pformat(value, width=WIDTH - len(head), compact=True, sort_dicts=False)
    return head + text.replace("\n", "\n" + " " * len(head))


class Sources(NamedTuple):
    """The text of functions and their dependencies: a line for each import and constant, and the
    source of the functions with their docstrings.   names: all names that the text defines."""

    names: list[str]
    imports: list[str]
    constants: list[str]
    functions: list[str]


def sources_of(functions: Iterable[Callable[..., Any]]) -> Sources:
    """The text of the functions, after the text of everything that they use.

    Raises ValueError that names a function without source text, such as one of an interactive
    session, or a function that uses something other than functions, numbers, text, tuples of these,
    and `MODULES`.
    """
    found: dict[str, Any] = {}  # name -> its value
    texts: dict[str, str] = {}  # name -> its text, with definitions before their use
    for function in functions:
        _collect(function, found, texts)
    imports = [_import(n, v) for n, v in found.items() if isinstance(v, ModuleType)]
    is_function = {name: isinstance(found[name], FunctionType) for name in texts}
    constants, own = ([texts[n] for n in texts if is_function[n] is kind] for kind in (False, True))
    return Sources([*found], sorted(imports), constants, own)


def _collect(function: Any, found: dict[str, Any], texts: dict[str, str]) -> None:
    """Add a function after everything that it uses."""
    name = getattr(function, "__name__", repr(function))
    if name in found:
        if found[name] is not function:
            raise ValueError(f"two different things are called {name!r}; rename one of them")
        return
    text, node = _text_of(function, name)
    found[name] = function
    for used in dict.fromkeys(_names_in(node)):
        if used not in function.__globals__:
            continue  # an argument, or a builtin
        value = function.__globals__[used]
        if isinstance(value, FunctionType):
            _collect(value, found, texts)
        elif found.setdefault(used, value) != value:
            raise ValueError(f"two different things are called {used!r}; rename one of them")
        elif isinstance(value, ModuleType) and value.__name__ in MODULES:
            continue
        elif isinstance(value, tuple) or type(value) in PLAIN:
            texts[used] = assigned(used, value)
        else:
            raise ValueError(
                f"{name} uses {used}, which is no function, number or text, and cannot be written"
            )
    texts[name] = text


def _text_of(function: Any, name: str) -> tuple[str, ast.FunctionDef]:
    try:
        text = textwrap.dedent(inspect.getsource(function)).rstrip()
        [node] = ast.parse(text).body
    except (OSError, TypeError, SyntaxError, ValueError):
        node = text = None
    if text is None or not isinstance(node, ast.FunctionDef) or function.__closure__:
        raise ValueError(f"{name} has no text that stands alone; define it with def in a module")
    return text, node


def _names_in(node: ast.AST) -> Iterator[str]:
    """The names that a syntax tree reads, without those in type annotations."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                yield child.id
            elif isinstance(child, ast.AST):
                yield from _names_in(child)


def _import(name: str, module: ModuleType) -> str:
    known = module.__name__
    return f"import {known}" if name == known else f"import {known} as {name}"
