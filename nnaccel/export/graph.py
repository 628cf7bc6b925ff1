"""Builds an ONNX graph of nodes, constants, inputs and outputs, which all have names."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from nnaccel import __version__
from nnaccel.tabular.tables import import_extra

Shape = tuple[int | None, ...]  # None: any number of rows

OPSET, ML_OPSET, IR = 18, 3, 8  # versions that onnxruntime reads from 1.14 on
ML = "ai.onnx.ml"  # the domain of the operators for strings


class Graph:
    """The nodes and constants of a graph, in the order of their creation."""

    def __init__(self) -> None:
        self._onnx = import_extra("onnx")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._names: set[str] = set()
        self._known: dict[Any, str] = {}

    def input(self, name: str, dtype: Any, shape: Shape, note: str = "") -> None:
        """Declare an input of the model, before the first node.

        Raises ValueError for an invalid name of an input.
        """
        if not name:
            raise ValueError("a column without a name cannot be an input of ONNX; rename it")
        self._names.add(name)
        self._inputs.append(self._declared(name, dtype, shape, note))

    def output(self, name: str, of: str, dtype: Any, shape: Shape, note: str = "") -> None:
        """Declare an output. If an input has its name already, the output becomes `name
        predicted`."""
        while name in self._names:
            name += " predicted"
        self._names.add(name)
        self._add("Identity", [of], name, {})
        self._outputs.append(self._declared(name, dtype, shape, note))

    def constant(self, values: np.ndarray) -> str:
        """The name of a constant array. Equal arrays share one constant."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if values.dtype.kind in "OU":
            values = values.astype(object)
            key = ("text", values.shape, tuple(values.ravel().tolist()))
        if key not in self._known:
            name = self._known[key] = self._fresh("constant")
            self._constants.append(self._onnx.numpy_helper.from_array(values, name))
        return self._known[key]

    def add(self, operator: str, inputs: Iterable[str], **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        name = self._fresh(operator)
        self._add(operator, inputs, name, attributes)
        return name

    def _add(self, operator: str, inputs: Iterable[str], name: str, attributes: Any) -> None:
        """Add a node with the name of its output, since older runtimes confuse nodes without a
        name."""
        make = self._onnx.helper.make_node
        self._nodes.append(make(operator, [*inputs], [name], name=name, **attributes))

    def model(self, note: str, properties: dict[str, str]) -> Any:
        """The graph as a ModelProto, after ONNX's check.   note: its description."""
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes, "nnaccel", self._inputs, self._outputs, initializer=self._constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)],
            ir_version=IR,
            producer_name="nnaccel",
            producer_version=__version__,
            doc_string=note,
        )
        helper.set_model_props(model, properties)
        self._onnx.checker.check_model(model)
        return model

    def _fresh(self, operator: str) -> str:
        """A name that no column and no node has."""
        number = len(self._nodes) + len(self._constants)
        while (name := f"{operator} {number}") in self._names:
            number += 1
        self._names.add(name)
        return name

    def type_of(self, dtype: Any) -> int:
        """ONNX's number of a dtype."""
        if np.dtype(dtype).kind in "UO":
            return self._onnx.TensorProto.STRING
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def _declared(self, name: str, dtype: Any, shape: Shape, note: str) -> Any:
        kind = self.type_of(dtype)
        sizes = ["rows" if size is None else size for size in shape]
        return self._onnx.helper.make_tensor_value_info(name, kind, sizes, doc_string=note)
