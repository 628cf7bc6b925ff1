"""What a user adds trains on CUDA by its definition, between the kernels of everything else.

Without a GPU: `cuda_on_host.py` plays CuPy.
"""

import sys
from functools import partial
from types import ModuleType

import numpy as np
import pytest
from array_api_compat import numpy as compat

from nnaccel.kernels.cuda.backend import CuPyBackend
from nnaccel.maths import losses, optimizers, schedules
from nnaccel.maths.activations import ACTIVATIONS, Activation, identity
from nnaccel.maths.layers import Dense
from nnaccel.maths.layers.dense import dense, dense_vjp
from nnaccel.maths.losses import LOSSES, Loss
from nnaccel.maths.network import Network, layout, mlp, value_and_grad
from nnaccel.maths.optimizers import OPTIMIZERS, Optimizer, State
from nnaccel.ops import Ops
from nnaccel.training.data import Data
from nnaccel.training.step import make_step
from tests.kernels.cuda import cuda_on_host
from tests.kernels.cuda.cuda_on_host import OnDevice
from tests.kernels.test_epoch import assert_same_run, examples, simple, trained

pytestmark = pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)


@pytest.fixture
def register(monkeypatch):
    """Adds an activation to the table, or replaces one, until the test ends."""

    def add(name, forward, vjp, reads_Z=True):
        monkeypatch.setitem(ACTIVATIONS, name, Activation(name, forward, vjp, reads_Z))

    return add


@pytest.fixture
def xp(monkeypatch):
    """NumPy under the name of CuPy's namespace; steps are captured from the second one on."""
    modules = cuda_on_host.modules_on_host()
    for name in ("workspace", "small_network", "graphs"):
        module = getattr(modules, name)
        monkeypatch.setitem(sys.modules, f"nnaccel.kernels.cuda.{name}", module)
    monkeypatch.setattr(modules.graphs, "FIRST", 1)
    monkeypatch.setattr(modules.cupy, "kind", OnDevice)
    monkeypatch.setattr(modules.cupy, "malloc", cuda_on_host.MemoryPool().malloc)
    namespace = ModuleType("array_api_compat.cupy")
    namespace.__dict__.update({k: v for k, v in vars(compat).items() if k[:2] != "__"})
    return namespace


def there(x):
    """An array on the device."""
    return None if x is None else np.array(x).view(OnDevice)


def run(problem, xp, graphs):
    """Parameters, state and records, on the host, of a run as `train` makes it."""
    backend, run = CuPyBackend(xp, graphs=graphs), problem.run_on(xp)
    ops = backend.operations()
    epoch = backend.compile_epoch(partial(make_step, ops=ops), run, ops)(run.seed)
    params, state = problem.start
    start = there(params), State(state.step, tuple(map(there, state.slots)))
    on_device = problem._replace(data=Data(*map(there, problem.data)))
    params, state, records = trained(epoch, on_device, start=start)
    slots = tuple(np.array(x) for x in state.slots)
    return np.array(params), State(state.step, slots), np.array(records)


def assert_trains(problem, xp):
    """As the steps by the definitions, with graphs and without."""
    expected = trained(problem.steps(), problem)
    for graphs in (True, False):
        assert_same_run(run(problem, xp, graphs), expected)


def cube(Z, *, xp):
    return Z * Z * Z


def cube_vjp(dA, Z, A, *, xp):
    return dA * (3.0 * Z * Z)


def fifth(Z, *, xp):
    return Z * Z * Z * Z * Z


def fifth_vjp(dA, Z, A, *, xp):
    return dA * (5.0 * Z * Z * Z * Z)


def passed(network, data):
    """Loss, gradient and logits, by the kernels and by the definitions."""
    rng = np.random.default_rng(0)
    params = rng.standard_normal(layout(network).size).astype(np.float32) / 4
    loss, kernels = losses.get("softmax_cross_entropy"), cuda_on_host.on_host().kernels(np)
    runs = (
        value_and_grad(network, loss, params, data.X, data.Y, ops=ops)
        for ops in (Ops(np, kernels), Ops(np))
    )
    return zip(*runs, strict=True)


def test_an_added_activation_passes_forward_and_back(register):
    """In a layer of few units and in one of many."""
    register("cube", cube, cube_vjp)
    for found, expected in passed(mlp(3, [40, 5], 3, activation="cube"), examples()):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def test_an_added_activation_leaves_the_products_to_the_kernels(register):
    register("cube", cube, cube_vjp)
    cupy, ops = cuda_on_host.cupy_on_host(), Ops(np, cuda_on_host.on_host().kernels(np))
    rng = np.random.default_rng(0)
    X, W, b, dA = (rng.standard_normal(s) for s in ((9, 6), (6, 40), (1, 40), (9, 40)))
    before = cupy.launches
    Z, A = ops[dense](X, W, b, ACTIVATIONS["cube"])
    assert cupy.launches - before == 1
    ops[dense_vjp](dA, X, W, Z, A, ACTIVATIONS["cube"])
    assert cupy.launches - before == 3


@pytest.mark.parametrize("hidden", [[5], [40, 20]])
def test_an_added_activation_trains(register, xp, hidden):
    register("cube", cube, cube_vjp)
    assert_trains(simple(mlp(3, hidden, 3, activation="cube"), optimizers.adam(0.001)), xp)


AGAIN = pytest.mark.parametrize("name", ["cube", "tanh", "relu"])


@AGAIN
def test_a_name_that_is_registered_again_means_the_new_function(register, name):
    """Nothing answers for the old one, be it the library's own."""
    for forward, vjp in ((cube, cube_vjp), (fifth, fifth_vjp)):
        register(name, forward, vjp)
        for found, expected in passed(mlp(3, [5], 3, activation=name), examples()):
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


@AGAIN
def test_a_run_after_a_name_is_registered_again(register, xp, name):
    """Each run has the function of its time."""
    for forward, vjp in ((cube, cube_vjp), (fifth, fifth_vjp)):
        register(name, forward, vjp)
        assert_trains(simple(mlp(3, [5], 3, activation=name), optimizers.adam(0.001)), xp)


def test_a_librarys_function_in_a_row_of_ones_own(register, xp):
    """A row may say that the derivative reads Z where the kernel's does not keep it."""
    register("tanh", ACTIVATIONS["tanh"].forward, ACTIVATIONS["tanh"].vjp, reads_Z=True)
    assert_trains(simple(mlp(3, [40, 5], 3, activation="tanh")), xp)


def test_an_added_loss_trains(xp, monkeypatch):
    def fourth_power(Z, Y, weights=None, *, xp):
        """The mean over examples of the sum of (Z - Y)^4 over outputs."""
        shares = 1.0 / Z.shape[-2] if weights is None else weights[..., None] / Z.shape[-2]
        E = Z - Y
        return xp.sum(shares * E * E * E * E, axis=(-2, -1)), 4.0 * shares * E * E * E

    monkeypatch.setitem(LOSSES, "fourth_power", Loss("fourth_power", fourth_power, identity))
    assert_trains(simple(loss="fourth_power", data=examples("squared_error", 3)), xp)


def test_an_added_optimizer_trains(xp, monkeypatch):
    def sign_descent(learning_rate=0.01):
        """W := W - rate sign(dW), with a slot for the sum of all gradients."""

        def init(params, *, xp):
            return State(xp.zeros((), dtype=xp.int32), (xp.zeros_like(params),))

        def update(grads, state, params, *, ops, n_weights):
            total = state.slots[0] + grads
            return params - learning_rate * ops.xp.sign(grads), State(state.step + 1, (total,))

        return Optimizer(init, update)

    monkeypatch.setitem(OPTIMIZERS, "sign", optimizers.Row(sign_descent))
    assert_trains(simple(optimizer=optimizers.get("sign", 0.01)), xp)


def test_an_added_schedule_trains(xp, monkeypatch):
    def harmonic(rate, steps):
        return lambda step, *, xp: rate / (1.0 + step / steps)

    monkeypatch.setitem(schedules.SCHEDULES, "harmonic", harmonic)
    rate = schedules.get("harmonic", 0.01, 5)
    assert_trains(simple(optimizer=optimizers.adamw(rate, weight_decay=0.1)), xp)


class Scaled(Dense):
    """A layer of another kind that has the parameters of a dense one, and doubles its input."""

    def forward(self, params, X, *, ops, key, training=False):
        return super().forward(params, X + X, ops=ops, key=key, training=training)

    def backward(self, params, saved, dA, *, ops, need_dX):
        dX, grads = super().backward(params, saved, dA, ops=ops, need_dX=need_dX)
        return (None if dX is None else dX + dX), grads


def test_an_added_layer_trains(xp):
    """Also one that is made from a dense layer: no kernel takes it for one."""
    network = Network(3, (Scaled(5, ACTIVATIONS["tanh"]), Dense(3)))
    assert_trains(simple(network, l2=0.01), xp)
