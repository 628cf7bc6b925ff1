"""How fast this machine trains: the four shapes on each of its devices."""

from typing import Any

import numpy as np

from nnaccel.compile import compile_step
from nnaccel.devices import select, to_host
from nnaccel.kernels import bind
from nnaccel import losses, optimizers
from nnaccel.network import Network
from nnaccel.training import make_step, put


class Trainer:
    def __init__(self, network: Network, X: Any, Y: Any, *, device: str, params: Any) -> None:
        self.where = where = select(device)
        loss = losses.get("softmax_cross_entropy")
        optimizer = optimizers.get("adam", 1e-3)
        self.data = put(network, loss, where, "float32", X, Y)
        self.params = where.asarray(params, "float32", copy=True)
        self.state = optimizer.init(self.params, xp=where.xp)
        step = make_step(network, loss, optimizer, bind(where.xp), dtype=self.params.dtype)
        self.step = compile_step(step, where.xp, donate=(0, 1))

    def run(self, order: Any, epochs: int) -> float:
        value = 0.0
        indices = [self.where.asarray(index) for index in order]
        with np.errstate(all="ignore"):
            for _ in range(epochs):
                records = []
                for index in indices:
                    self.params, self.state, record = self.step(self.params, self.state, self.data, index)
                    records.append(record)
                value = to_host(self.where.xp.stack(records)).mean()
        return float(value)
