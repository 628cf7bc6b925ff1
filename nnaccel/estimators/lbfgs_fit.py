"""The fit by L-BFGS: the loss over all data, and the record of each iteration."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.estimators.held_out import HeldOut, validate

# isort: split
from sklearn.utils.optimize import _check_optimize_result

from nnaccel.devices.device import dtype_of
from nnaccel.estimators.callbacks import Watch
from nnaccel.estimators.fit_plan import Examples, FitPlan
from nnaccel.kernels.backend import Backend, backend_of
from nnaccel.maths.losses import Loss
from nnaccel.maths.network import Network, l2_penalty, layout, value_and_grad
from nnaccel.training import lbfgs
from nnaccel.training.data import Data, HostData
from nnaccel.training.device_errors import explain_device_errors
from nnaccel.training.streaming import evaluation_rows, in_order
from nnaccel.typing import Array


def fit_lbfgs(estimator: Any, plan: FitPlan, examples: Examples, held_out: HeldOut | None) -> None:
    """Train the estimator until it has converged or reached its limit of iterations."""
    with explain_device_errors(plan.where, plan.network, plan.dtype):
        X, codes, weights = examples
        data = plan.put(X, estimator._targets(codes), weights)
        l2 = plan.l2(estimator.alpha, X.shape[0], weights)
        watch = Watch(estimator, estimator.max_iter + 1, *examples)
        watch.begin()
        # Overflow shows in the values, from which the line search steps back.
        with np.errstate(all="ignore"):
            for at in lbfgs.minimize(
                full_objective(plan, data, l2),
                estimator._params(plan),
                xp=plan.where.xp,
                max_iter=estimator.max_iter,
                max_fun=estimator.max_fun,
                tol=estimator.tol,
            ):
                record(estimator, plan, at, held_out)
                stop = watch.end()
                if at.status is not None:
                    result = SimpleNamespace(status=at.status, message=at.message, nit=at.number)
                    found = _check_optimize_result("lbfgs", result, estimator.max_iter)
                    estimator.n_iter_ = found
                elif stop:
                    break
                else:
                    watch.begin()
        watch.close()


def record(estimator: Any, plan: FitPlan, at: lbfgs.Iterate, held_out: HeldOut | None) -> None:
    """Record an iteration in the attributes of the estimator."""
    estimator._show(plan, at.params)
    estimator.n_iter_, estimator.loss_ = at.number, at.value
    if estimator.verbose:
        print(f"Iteration {at.number}, loss = {at.value:.8f}")
    if held_out is not None:
        validate(estimator, plan, held_out)


def full_objective(plan: FitPlan, data: Data | HostData, l2: float) -> lbfgs.Objective:
    """The loss over all data and its gradient (P,), with the penalty l2/2 |W|^2.

    Summed over parts of the rows, which bounds the memory.
    """
    network, loss, where = plan.network, plan.loss, plan.where
    xp, N, n_weights = where.xp, data.X.shape[0], layout(network).n_weights
    backend = backend_of(xp, plan.kernels)
    part = backend.once(compile_value_and_grad, backend, network, loss, dtype_of(where, plan.dtype))
    parts, rows_at_once = in_order(data, where), min(N, evaluation_rows(data.X))

    def objective(params: Array) -> tuple[Array, Array]:
        value = grads = 0.0
        with backend.context(network, rows_at_once):
            for rows in parts():
                share = rows.Y.shape[0] / N
                part_value, part_grads = part(params, *rows)
                value, grads = value + share * part_value, grads + share * part_grads
        return l2_penalty(value, grads, params, l2, n_weights, xp=xp)

    return objective


def compile_value_and_grad(
    backend: Backend, network: Network, loss: Loss, dtype: Any
) -> Callable[..., tuple[Array, Array]]:
    """The function (params, X, Y, weights) -> (loss, gradient), compiled if the library has a
    compiler."""
    ops, xp = backend.operations(), backend.xp

    def part(params: Array, X: Array, Y: Array, weights: Array | None) -> tuple[Array, Array]:
        X = X if X.dtype == dtype else xp.astype(X, dtype)
        return value_and_grad(network, loss, params, X, Y, weights, ops=ops)[:2]

    return backend.compile(part)
