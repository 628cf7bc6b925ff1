"""Wrong derivatives, made from the right ones: one operation of their source is changed.

A mutant counts the calls in which its result is another one than that of the original. One that
has the same result in all of them is no mistake.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of an expression by mistake."""
    match node:
        case ast.BinOp(left, op, right):
            yield left  # a forgotten term or factor
            yield right
            if type(op) in OTHER:
                yield ast.BinOp(left, OTHER[type(op)](), right)
            if not isinstance(op, ast.Pow):
                yield ast.BinOp(ast.Constant(1.001), ast.Mult(), node)
        case ast.UnaryOp(ast.USub(), operand):  # a sign
            yield operand
        case ast.Constant(float(value)):
            yield ast.Constant(1.1 * value + 0.01)
        case ast.Call(func, [first, *_]) if not isinstance(first, ast.Starred):
            if not (isinstance(func, ast.Name) and func.id in ("max", "average", "range")):
                yield first  # a function that is forgotten: a transpose, a sum, a mean
        case ast.Compare(left, [ast.Gt()], comparators):
            yield ast.Compare(left, [ast.Lt()], comparators)


class Replace(ast.NodeTransformer):
    """Puts another expression in the place of the n-th one."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().generic_visit(node)


class Mutant:
    """A function with one change.   text: the change, in source."""

    def __init__(
        self, original: Callable[..., Any], function: Callable[..., Any], text: str
    ) -> None:
        self.original, self.function, self.text = original, function, text
        self.__name__, self.__kwdefaults__ = original.__name__, original.__kwdefaults__
        self.__signature__ = inspect.signature(original)
        self.n_wrong = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        right = self.original(*args, **options)
        try:
            found = self.function(*args, **options)
        except Exception:
            self.n_wrong += 1
            raise
        self.n_wrong += not same(found, right)
        return found


def same(found: Any, right: Any) -> bool:
    """Whether two results are the same, but for rounding."""
    if isinstance(right, tuple):
        return all(map(same, found, right))
    if found is None or right is None:
        return found is right
    return np.shape(found) == np.shape(right) and np.allclose(found, right, rtol=1e-10, atol=1e-13)


def whole(tree: ast.AST) -> ast.AST:
    return tree


def mutants(
    function: Callable[..., Any], part: Callable[[ast.AST], ast.AST] = whole
) -> list[Mutant]:
    """Every mutant of a function with one change in that part of its tree."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (definition,) = tree.body
    inside = {node for line in definition.body for node in ast.walk(line)} & {*ast.walk(part(tree))}
    found = []
    for i, node in enumerate(ast.walk(tree)):
        if node not in inside:
            continue
        for n, _ in enumerate(changes(node)):
            fresh = copy.deepcopy(tree)
            old = [*ast.walk(fresh)][i]
            new = [*changes(old)][n]
            text = f"{ast.unparse(old)} -> {ast.unparse(new)}"
            module = ast.fix_missing_locations(Replace(old, copy.deepcopy(new)).visit(fresh))
            space = dict(function.__globals__)
            exec(compile(module, f"<mutant of {function.__name__}>", "exec"), space)
            found.append(Mutant(function, space[function.__name__], f"{function.__name__}: {text}"))
    return found
