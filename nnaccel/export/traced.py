"""Arrays that record operations: running the mathematics on them gives an ONNX graph.

The functions of `maths/` are written against the Array API standard. With `Traced` arrays and
`Functions` they compute nothing, and add operators of ONNX to a graph. So no activation or layer
needs a second definition, and those that a program adds are exported like the others.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nnaccel.export.graph import ML, Graph, Shape

# Functions of the standard that are a single operator: of one array, of two, and along axes.
UNARY = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "negative": "Neg",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sin": "Sin", "tan": "Tan",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "reciprocal": "Reciprocal", "logical_not": "Not", "isnan": "IsNaN",
}  # fmt: skip
BINARY = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "pow": "Pow",
    "maximum": "Max", "minimum": "Min", "less": "Less", "less_equal": "LessOrEqual",
    "greater": "Greater", "greater_equal": "GreaterOrEqual", "equal": "Equal",
    "logical_and": "And", "logical_or": "Or",
}  # fmt: skip
ALONG = {
    "sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin",
    "prod": "ReduceProd",
}  # fmt: skip
TRUTH = {"IsNaN", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"}
# Python's operators, and the functions that they call.
ARITHMETIC = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow",
    "matmul": "matmul", "and": "logical_and", "or": "logical_or",
}  # fmt: skip
COMPARISONS = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}  # fmt: skip


class Unknown(TypeError):
    """A function without an operator in the ONNX graph."""


class Traced:
    """An array with a known dtype and shape, which stands for a named value in a graph."""

    __array_ufunc__ = None  # makes NumPy arrays leave operations to this class

    def __init__(self, xp: "Functions", name: str, dtype: Any, shape: Shape) -> None:
        self.xp, self.name = xp, name
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> "Traced":
        """Slices, whole numbers, None and an ellipsis."""
        key = key if isinstance(key, tuple) else (key,)
        given = sum(part is not None and part is not Ellipsis for part in key)
        at = next((i for i, part in enumerate(key) if part is Ellipsis), len(key))
        whole = (slice(None),) * (self.ndim - given)
        found, axis = self, 0
        for part in (*key[:at], *whole, *key[at + 1 :]):
            if part is None:
                found = self.xp.expand_dims(found, axis=axis)
            elif isinstance(part, slice):
                found = self.xp.cut(found, part, axis)
            else:
                found = self.xp.take(found, part, axis=axis)
                continue  # a whole number removes the axis
            axis += 1
        return found

    def __neg__(self) -> "Traced":
        return self.xp.negative(self)

    def __invert__(self) -> "Traced":
        return self.xp.logical_not(self)

    def __bool__(self) -> bool:
        raise Unknown("a branch on numbers that are known only in a prediction")

    def __iter__(self) -> Any:
        raise Unknown("a loop over an array")

    __float__ = __int__ = __index__ = __bool__


def _operator(name: str, swapped: bool = False) -> Callable[[Traced, Any], Traced]:
    def operator(self: Traced, other: Any) -> Traced:
        function = getattr(self.xp, name)
        return function(other, self) if swapped else function(self, other)

    return operator


for _python, _name in ARITHMETIC.items():
    setattr(Traced, f"__{_python}__", _operator(_name))
    setattr(Traced, f"__r{_python}__", _operator(_name, swapped=True))
for _python, _name in COMPARISONS.items():
    setattr(Traced, f"__{_python}__", _operator(_name))


class Functions:
    """The functions of the Array API standard for traced arrays. For other arrays they are NumPy's.

    Raises AttributeError or TypeError for functions without an operator.
    """

    __name__ = "ONNX"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        if name in UNARY:
            return self._or_numpy(name, lambda x: self._one(UNARY[name], x))
        if name in BINARY:
            return self._or_numpy(name, lambda x, y: self._two(BINARY[name], x, y))
        if name in ALONG:
            return self._or_numpy(name, lambda x, **how: self._along(ALONG[name], x, **how))
        value = getattr(np, name, None)
        if isinstance(value, type | float):
            return value  # a dtype, pi
        raise AttributeError(f"xp.{name} has no operator of ONNX here")

    def _or_numpy(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def either(*arrays: Any, **how: Any) -> Any:
            if any(isinstance(array, Traced) for array in arrays):
                return function(*arrays, **how)
            return getattr(np, name)(*arrays, **how)

        return either

    # ------------------------------------------------------------------ the ends of a graph

    def input(self, name: str, dtype: Any, shape: Shape, note: str) -> Traced:
        """Declare an input of the graph."""
        self.graph.input(name, dtype, shape, note)
        return Traced(self, name, dtype, shape)

    def declare(self, name: str, value: Traced, note: str = "") -> None:
        """Declare an output of the graph."""
        self.graph.output(name, value.name, value.dtype, value.shape, note)

    # ------------------------------------------------------------------ operators

    def constant(self, values: Any, dtype: Any = None) -> Traced:
        """A NumPy array or a number as a constant of the graph."""
        values = np.asarray(values, dtype=dtype, order="C")
        return Traced(self, self.graph.constant(values), values.dtype, values.shape)

    def node(
        self, operator: str, inputs: Iterable[Traced], dtype: Any, shape: Shape, **attributes: Any
    ) -> Traced:
        """The output of an operator with the given inputs."""
        name = self.graph.add(operator, [array.name for array in inputs], **attributes)
        return Traced(self, name, dtype, shape)

    def _one(self, operator: str, x: Traced) -> Traced:
        return self.node(operator, [x], bool if operator in TRUTH else x.dtype, x.shape)

    def _two(self, operator: str, x: Any, y: Any) -> Traced:
        x, y = self._alike(x, y)
        dtype = bool if operator in TRUTH else x.dtype
        return self.node(operator, [x, y], dtype, _broadcast(x.shape, y.shape))

    def _alike(self, *arrays: Any) -> list[Traced]:
        """Arrays and numbers as traced arrays of one dtype. A number gets that of the arrays."""
        dtype = np.result_type(*(a.dtype for a in arrays if hasattr(a, "dtype")))
        traced = [a if isinstance(a, Traced) else self._of(a, dtype) for a in arrays]
        return [self.astype(array, dtype) for array in traced]

    def _of(self, value: Any, dtype: Any) -> Traced:
        if not hasattr(value, "dtype") and isinstance(value, float) and dtype.kind != "f":
            raise Unknown(f"the number {value} with an array of {dtype}")
        return self.constant(value, dtype)

    def _along(
        self, operator: str, x: Traced, *, axis: Any = None, keepdims: bool = False
    ) -> Traced:
        axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        axes = sorted(a % x.ndim for a in axes)
        shape = tuple(
            1 if i in axes else size for i, size in enumerate(x.shape) if keepdims or i not in axes
        )
        where = self.constant(np.array(axes, np.int64))
        return self.node(operator, [x, where], x.dtype, shape, keepdims=int(keepdims))

    # ------------------------------------------------------------------ functions

    def astype(self, x: Any, dtype: Any, **_: Any) -> Any:
        if not isinstance(x, Traced):
            return np.asarray(x).astype(dtype)
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        return self.node("Cast", [x], dtype, x.shape, to=self.graph.type_of(dtype))

    def isdtype(self, dtype: Any, kind: Any) -> bool:
        return np.isdtype(dtype, kind)

    def asarray(self, values: Any, *, dtype: Any = None, **_: Any) -> Any:
        if isinstance(values, Traced):
            return values if dtype is None else self.astype(values, dtype)
        return np.asarray(values, dtype=dtype)

    def arange(self, *bounds: Any, dtype: Any = None, **_: Any) -> np.ndarray:
        return np.arange(*bounds, dtype=dtype)

    def matmul(self, x: Any, y: Any) -> Traced:
        x, y = self._alike(x, y)
        if min(x.ndim, y.ndim) < 2:
            raise Unknown("a product with an array of one axis")
        shape = (*_broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
        return self.node("MatMul", [x, y], x.dtype, shape)

    def where(self, condition: Any, x: Any, y: Any) -> Traced:
        x, y = self._alike(x, y)
        condition = self.asarray(condition)
        if not isinstance(condition, Traced):
            condition = self.constant(condition)
        shape = _broadcast(condition.shape, _broadcast(x.shape, y.shape))
        return self.node("Where", [condition, x, y], x.dtype, shape)

    def not_equal(self, x: Any, y: Any) -> Traced:
        return self.logical_not(self.equal(x, y))

    def square(self, x: Any) -> Any:
        return x * x

    def cos(self, x: Any) -> Any:
        return self.sin(x + np.pi / 2)  # older runtimes have no cosine of float64

    def expm1(self, x: Any) -> Any:
        return self.exp(x) - 1

    def log1p(self, x: Any) -> Any:
        return self.log(x + 1)

    def logaddexp(self, x: Any, y: Any) -> Traced:
        return self.maximum(x, y) + self.log1p(self.exp(-self.abs(x - y)))

    def clip(self, x: Any, low: Any = None, high: Any = None) -> Any:
        x = x if low is None else self.maximum(x, low)
        return x if high is None else self.minimum(x, high)

    def zeros_like(self, x: Any, **_: Any) -> Any:
        return self.full_like(x, 0)

    def ones_like(self, x: Any, **_: Any) -> Any:
        return self.full_like(x, 1)

    def full_like(self, x: Any, value: float, **_: Any) -> Any:
        if not isinstance(x, Traced):
            return np.full_like(x, value)
        shape = self.node("Shape", [x], np.int64, (x.ndim,))
        return self.node("Expand", [self.constant(value, x.dtype), shape], x.dtype, x.shape)

    def expand_dims(self, x: Any, /, *, axis: int) -> Any:
        if not isinstance(x, Traced):
            return np.expand_dims(x, axis)
        axis %= x.ndim + 1
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        return self.node("Unsqueeze", [x, self.constant(np.array([axis]))], x.dtype, shape)

    def cut(self, x: Traced, part: slice, axis: int) -> Traced:
        """x with a slice of an axis."""
        size = x.shape[axis]
        if part == slice(None):
            return x
        if size is None:
            raise Unknown("a slice of the rows")
        start, stop, step = part.indices(size)
        if step < 0:
            raise Unknown("a slice backwards")
        shape = (*x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])
        bounds = (self.constant(np.array([n])) for n in (start, stop, axis, step))
        return self.node("Slice", [x, *bounds], x.dtype, shape)

    def take(self, x: Any, indices: Any, /, *, axis: int = 0) -> Any:
        if not isinstance(indices, Traced):
            indices = self.constant(indices, np.int64)
        x = x if isinstance(x, Traced) else self.constant(x)
        axis %= x.ndim
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return self.node("Gather", [x, indices], x.dtype, shape, axis=axis)

    def concat(self, arrays: Any, /, *, axis: int = 0) -> Traced:
        arrays = self._alike(*arrays)
        axis %= arrays[0].ndim
        sizes = [array.shape[axis] for array in arrays]
        size = None if None in sizes else sum(sizes)  # pyright: ignore
        shape = (*arrays[0].shape[:axis], size, *arrays[0].shape[axis + 1 :])
        return self.node("Concat", arrays, arrays[0].dtype, shape, axis=axis)

    def stack(self, arrays: Any, /, *, axis: int = 0) -> Traced:
        return self.concat([self.expand_dims(array, axis=axis) for array in arrays], axis=axis)

    def argmax(self, x: Traced, /, *, axis: int, keepdims: bool = False) -> Traced:
        axis %= x.ndim
        shape = (*x.shape[:axis], *([1] if keepdims else []), *x.shape[axis + 1 :])
        return self.node("ArgMax", [x], np.int64, shape, axis=axis, keepdims=int(keepdims))

    def softmax(self, x: Traced) -> Traced:
        """Softmax over the last axis."""
        return self.node("Softmax", [x], x.dtype, x.shape, axis=-1)

    def code_of(self, x: Traced, codes: dict[str, int], other: int) -> Traced:
        """The code of each text; `other`, by default -1, for a text without a code."""
        keys, values = [*codes], [*codes.values()]
        how = {"keys_strings": keys, "values_int64s": values, "default_int64": other, "domain": ML}
        return self.node("LabelEncoder", [x], np.int64, x.shape, **how)


def _broadcast(x: Shape, y: Shape) -> Shape:
    """The common shape of two arrays. Raises ValueError if they cannot be broadcast."""
    n = max(len(x), len(y))
    pairs = zip((1,) * (n - len(x)) + x, (1,) * (n - len(y)) + y, strict=True)
    return tuple(_together(a, b) for a, b in pairs)


def _together(a: int | None, b: int | None) -> int | None:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    raise ValueError(f"sizes {a} and {b} do not fit together")
