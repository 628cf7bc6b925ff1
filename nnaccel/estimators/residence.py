"""The device of an estimator's arrays, also in copies and pickles.

`fit` and `to` put them on a device. A copy keeps them there. A pickle holds NumPy arrays, so that
it can be read on a machine without that device. The unpickled estimator computes on the device that
its parameter names, else on that of the given arrays.
"""

import copy
from collections.abc import Callable
from typing import Any

import array_api_compat as compat

from nnaccel.devices.device import select, to_host
from nnaccel.estimators.array_input import on_host
from nnaccel.estimators.labels import beside
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array

ARRAYS = {"coefs_", "intercepts_", "_memory"}  # the attributes that hold arrays, besides classes_


class Residence:
    """The methods of an estimator that move or keep its arrays."""

    def to(self, device: str) -> Any:
        """Move the fitted attributes to a device, and compute there from now on.

        Parameters
        ----------
        device : str
            A name for `nnaccel.devices.device.select`, such as "cpu" or "cuda"; it becomes the
            parameter `device`.

        Returns
        -------
        self : estimator
        """
        where, attributes = select(device), vars(self)
        for name in ARRAYS & attributes.keys():
            attributes[name] = moved(attributes[name], where.asarray)
        if "classes_" in attributes:
            attributes["classes_"] = beside(on_host(attributes["classes_"]), where)
        self.device, self._is_placed = device, True
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickle: every array as a NumPy array, without its device."""
        state: dict[str, Any] = dict(super().__getstate__())  # pyright: ignore
        for name in (ARRAYS | {"classes_"}) & state.keys():
            state[name] = moved(state[name], to_host)
        state.pop("_is_placed", None)
        return state

    def __copy__(self) -> Any:
        """A copy that shares the parameters but not the attributes that training changes."""
        twin = object.__new__(type(self))
        for name, value in vars(self).items():
            learned = name.endswith("_") or name == "_memory"
            vars(twin)[name] = copy.deepcopy(value) if learned else value
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy whose arrays are on the same device."""
        twin = memo[id(self)] = object.__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


def moved(value: Any, move: Callable[[Any], Array]) -> Any:
    """Nested tuples and lists with their arrays moved, and other values unchanged."""
    if isinstance(value, State):
        return State(move(value.step), moved(value.slots, move))
    if isinstance(value, list | tuple):
        return type(value)(moved(member, move) for member in value)
    return move(value) if compat.is_array_api_obj(value) else value
