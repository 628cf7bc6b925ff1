"""An epoch of a small network in as few NumPy calls as possible.

Where a call takes longer to begin than to compute, the number of calls determines the time of a
step, and the Python between the calls doubles it. So the steps of an epoch are listed once, as
functions with the arrays that they read and write, and an epoch runs the lists. These are short,
because

- arrays have the layout of the notes, one column an example. The input of a layer ends with a row
  of ones and its W with a column of biases, so that Z = W A and dW = dZ A^T include the biases;
- up to 32 minibatches are gathered at once, and their losses and metrics are computed at once;
- the next moments of all parameters are one product with a matrix of two rows, which also divides
  the gradient by the number of examples.
"""

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from array_api_compat import numpy as host

from nnaccel.kernels.definition import FusedEpoch, NotSupported, Run
from nnaccel.kernels.dense_plan import CROSS_ENTROPY, Plan, compact, plan_of, scalars_of
from nnaccel.kernels.numpy.blas_threads import one_is_enough
from nnaccel.kernels.numpy.in_place import ACTIVATIONS, Call, adam_step
from nnaccel.kernels.numpy.losses import LOSSES
from nnaccel.kernels.optimizer_trace import check_adam, rules_of
from nnaccel.maths.metrics import Metric
from nnaccel.maths.network import Network, layout, views
from nnaccel.maths.optimizers import State
from nnaccel.typing import Array, Namespace

# Parameters plus half the numbers of a minibatch, up to which a list is faster than single steps,
# which take more calls and fewer passes through memory.
MOST = 50_000

CHUNK = 2**20  # bytes of minibatches that are gathered at once, so that they stay in a cache
STEPS = 32  # steps in a list, at most: more do not make a step faster
NARROW = 24  # inputs: up to it a product with columns is faster, even though they have to be copied


def call_list_epoch(run: Run) -> FusedEpoch:
    """The epoch of a run as lists of calls. Raises NotSupported for other layers, activations and
    losses, and where the list would not be faster. The epoch itself raises it for other types."""
    network, batch_size = run.network, run.batch_size
    plan = plan_for(run)
    check_adam(run)
    K, n_weights = plan.sizes[-1], layout(network).n_weights

    @lru_cache(maxsize=1)
    def vectors_of(dtype: Any) -> Vectors:
        return Vectors(network, dtype)

    @lru_cache(maxsize=2)  # for full batches, and for a last, shorter one
    def steps_of(vectors: Vectors, B: int, *options: Any) -> Steps:
        return Steps(plan, vectors, B, run.share(B), run.metric, *options)

    def epoch_by_call_list(params: Array, state: State, data: Any, order: Array) -> Any:
        X, Y, weights = data
        if params.dtype not in (np.float32, np.float64):
            raise NotSupported(f"it has no {params.dtype} parameters")
        if Y.shape[1:] != (K,) and not (plan.loss == CROSS_ENTROPY and Y.ndim == 1):
            raise NotSupported(f"it has no targets of shape {Y.shape}")
        n_full, rest = divmod(order.shape[0], batch_size)
        n_steps = n_full + bool(rest)
        rules = rules_of(run.optimizer, params, state, n_steps, n_weights, xp=host)
        scalars = scalars_of(rules, n_steps, params.dtype)
        if rules.shrink is not None:
            scalars[:, 2] = rules.shrink  # since 1 - (1 - shrink) would lose digits
        options = weights is not None, rules.shrink is not None, rules.beta_1, rules.beta_2
        vectors = vectors_of(params.dtype)
        vectors.read(params, state)
        data = X, compact(Y, K), weights
        done, records = 0, []
        while done < n_steps:
            B = batch_size if done < n_full else rest
            steps = steps_of(vectors, B, *options)
            n = min(steps.most, n_full - done) if done < n_full else 1
            index = order[done * batch_size :][: n * B]
            records.append(steps.run(data, index, scalars[done : done + n], Y.dtype, xp=host))
            done += n
        vectors.write(params, state)
        return params, State(state.step + n_steps, state.slots), np.concatenate(records)

    return FusedEpoch("NumPy, a list of calls", epoch_by_call_list)


def plan_for(run: Run) -> Plan:
    """The plan of a run that is small enough. Raises NotSupported for any other."""
    if not one_is_enough(run.network, run.batch_size):
        raise NotSupported("its products are large enough for several threads")
    if layout(run.network).size + run.batch_size * run.network.n_inputs / 2 > MOST:
        raise NotSupported("the network or its minibatch is too large")
    return plan_of(run, ACTIVATIONS)


class Vectors:
    """The parameters of a network and their moments, in the order of an epoch.

    params: (P,), for each layer W (units, inputs) with its biases as a last column.
    moments: (2, 5, P), two matrices that alternate from step to step. Their rows are the moments m
    and v, the gradient, its square, and ones.
    """

    def __init__(self, network: Network, dtype: Any) -> None:
        places = layout(network)
        numbers = views(np.arange(places.size), places, xp=np)
        layers = [np.vstack(arrays).T for arrays in numbers if arrays]
        self.shapes = [layer.shape for layer in layers]
        self.order = np.concatenate([layer.reshape(-1) for layer in layers])
        self.is_weight = self.order < places.n_weights
        self.params = np.empty(places.size, dtype)
        self.moments = np.ones((2, 5, places.size), dtype)

    def matrices(self, vector: Array) -> list[Array]:
        """A vector (P,) as the matrices (units, inputs + 1) of the layers."""
        ends = accumulate((H * D for H, D in self.shapes), initial=0)
        return [
            vector[start:stop].reshape(shape)
            for (start, stop), shape in zip(pairwise(ends), self.shapes, strict=True)
        ]

    def read(self, params: Array, state: State) -> None:
        """Reads the vectors (P,) of the library, whose weights come first."""
        for mine, theirs in zip(self._all(), (params, *state.slots), strict=True):
            theirs.take(self.order, out=mine, mode="clip")

    def write(self, params: Array, state: State) -> None:
        """Writes the vectors (P,) of the library."""
        for mine, theirs in zip(self._all(), (params, *state.slots), strict=True):
            theirs[self.order] = mine

    def _all(self) -> tuple[Array, ...]:
        return self.params, *self.moments[0, :2]


class Steps:
    """Up to `most` steps on minibatches of B examples: the arrays, and the calls of each step.

    The gradient is that of the sum over examples. `rule` (2, 5) multiplies it by share / B and
    computes the next m and v of `Vectors.moments`. share: the factor of the mean gradient, see
    `Run.share`.
    """

    def __init__(
        self,
        plan: Plan,
        vectors: Vectors,
        B: int,
        share: float,
        metric: Metric | None,
        weighted: bool,
        decays: bool,
        beta_1: float,
        beta_2: float,
    ) -> None:
        dtype, (D, *units) = vectors.params.dtype, plan.sizes
        K = units[-1]
        size = B * (D + 1 + K * (3 + weighted + (metric is not None)))
        n = self.most = int(np.clip(CHUNK // (dtype.itemsize * size), 1, STEPS))
        self.plan, self.vectors, self.B, self.metric = plan, vectors, B, metric
        if D <= NARROW:
            self.X = np.ones((n, D + 1, B), dtype)
        else:  # the same shape, with each example contiguous in memory, as in the data set
            self.X = np.ones((n, B, D + 1), dtype).transpose(0, 2, 1)
        self.loss = LOSSES[plan.loss]((n, K, B), dtype)
        self.weights = np.empty((n, K, B), dtype) if weighted else None
        self.logits = np.empty((1 if metric is None else n, K, B), dtype)
        # For each layer its outputs with a row of ones for the next layer, the gradient in them,
        # and scratch memory.
        self.A = [np.ones((H + 1, B), dtype) for H in units[:-1]]
        self.dA = [np.empty((H, B), dtype) for H in units]
        self.room = [np.empty((H, B), dtype) for H in units]

        self.scalars = np.empty((n, 3), dtype)  # Adam's rate and epsilon, and the decay of weights
        # The last column adds the smallest normal number, which rounding removes from any other. So
        # the moments of a gradient that has become zero stay normal; `updates.py` says why.
        tiny = np.finfo(dtype).tiny
        scale = share / B
        m = beta_1, 0.0, (1.0 - beta_1) * scale, 0.0, tiny
        v = 0.0, beta_2, 0.0, (1.0 - beta_2) * scale**2, tiny
        self.rule = np.array([m, v], dtype)
        self.decays = vectors.is_weight.astype(dtype) if decays else None
        self.penalty = (B * plan.l2 * vectors.is_weight).astype(dtype) if plan.l2 else None
        self.squares = np.zeros(n, dtype)  # B l2 |W|^2
        self.between = np.empty_like(vectors.params)
        self.calls: list[list[Call]] = []  # of the steps that have run

    def run(self, data: Any, index: Array, scalars: Array, of_Y: Any, *, xp: Namespace) -> Array:
        """Runs n steps on the examples in index (n B,), with the scalars (n, 3). Returns their
        records (n,) or, with a metric, (n, 2).

        data: (X, Y, weights), Y as `compact` returns it.   of_Y: the dtype of Y before, for the
        metric.
        """
        n, B, weights = scalars.shape[0], self.B, None
        self.scalars[:n] = scalars
        self.X[:n, :-1] = data[0].take(index, 0).reshape(n, B, -1).transpose(0, 2, 1)
        Y = data[1].take(index, 0)
        Y = Y.reshape(n, B, *Y.shape[1:])
        self.loss.read(Y)
        if self.weights is not None:
            weights = self.weights[:n]
            weights[...] = data[2].take(index).reshape(n, 1, B)

        self.prepare(n)
        for calls in self.calls[:n]:
            for function, args in calls:
                function(*args)
        if n % 2:
            moments = self.vectors.moments
            moments[0, :2] = moments[1, :2]

        losses = self.loss.values(n)
        if weights is not None:
            losses *= weights
        values = np.add.reduce(losses.reshape(n, -1), axis=1)
        values += 0.5 * self.squares[:n]
        values /= B
        if self.metric is None:
            return values
        Z = self.logits[:n].transpose(0, 2, 1)
        Y = Y.astype(of_Y, copy=False)
        means = self.metric.function(Z, Y, None if weights is None else weights[:, 0], xp=xp)
        return np.stack([values, means], axis=1)

    def prepare(self, n: int) -> None:
        """Lists the calls of the first n steps."""
        self.calls += [self._step(t) for t in range(len(self.calls), n)]

    def _step(self, t: int) -> list[Call]:
        """The calls of step t."""
        moments, matrices = self.vectors.moments, self.vectors.matrices
        now, after = moments[t % 2], moments[(t + 1) % 2]
        W, dW = matrices(self.vectors.params), matrices(now[2])
        Z = self.logits[t % len(self.logits)]
        inputs, outputs = [self.X[t], *self.A], [*(A[:-1] for A in self.A), Z]
        calls: list[Call] = []

        # Forward: A = g(W A)
        for i, name in enumerate(self.plan.activations):
            calls.append((W[i].dot, (inputs[i], outputs[i])))
            forward, _ = ACTIVATIONS[name]
            calls += forward(outputs[i], self.plan.parameters[i], self.room[i])

        # The loss, and dZ of the last layer
        dA = self.dA[-1]
        calls += self.loss.calls(t, Z, dA)
        if self.weights is not None:
            calls.append((np.multiply, (dA, self.weights[t], dA)))

        # Backward: dZ = dA g'(Z), dW = dZ A^T, dA = W^T dZ
        for i, name in reversed([*enumerate(self.plan.activations)]):
            dA = self.dA[i]
            _, vjp = ACTIVATIONS[name]
            calls += vjp(dA, outputs[i], self.plan.parameters[i], self.room[i])
            calls.append((dA.dot, (inputs[i].T, dW[i])))
            if i:
                calls.append((W[i][:, :-1].T.dot, (dA, self.dA[i - 1])))

        return calls + self._update(t, now, after)

    def _update(self, t: int, now: Array, after: Array) -> list[Call]:
        """The calls of the L2 penalty, weight decay and Adam, from the moments `now` to `after` (5,
        P)."""
        params, x = self.vectors.params, self.between
        m, v, g, square = *after[:2], *now[2:4]
        rate, epsilon, amount = (self.scalars[t, i, ...] for i in range(3))
        calls: list[Call] = []
        if self.penalty is not None:
            calls += [
                (np.multiply, (params, self.penalty, x)),
                (np.add, (g, x, g)),
                (x.dot, (params, self.squares[t, ...])),
            ]
        if self.decays is not None:
            calls += [
                (np.multiply, (params, self.decays, x)),
                (np.multiply, (x, amount, x)),
                (np.subtract, (params, x, params)),
            ]
        return [
            *calls,
            (np.multiply, (g, g, square)),
            (self.rule.dot, (now, after[:2])),
            *adam_step(params, m, v, rate, epsilon, x),
        ]
