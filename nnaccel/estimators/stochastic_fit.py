"""The fit by minibatches: epochs of the training loop, and the rules that end it.

The rules are scikit-learn's: after more than `n_iter_no_change` epochs in a row that improve by
less than `tol`, training stops, or the adaptive learning rate is lowered.
"""

import warnings
from collections.abc import Iterator
from math import inf
from numbers import Integral
from typing import Any

import numpy as np

# First, since it says what to install where scikit-learn is missing.
from nnaccel.devices.device import device_of
from nnaccel.estimators.held_out import HeldOut, set_aside, validate

# isort: split
from sklearn.exceptions import ConvergenceWarning

from nnaccel.estimators.callbacks import Watch
from nnaccel.estimators.fit_plan import NOT_FINITE, Examples, FitPlan
from nnaccel.estimators.parameters import batch_size_of, optimizer_of
from nnaccel.maths.optimizers import State
from nnaccel.training.epoch import Epoch
from nnaccel.training.loop import train
from nnaccel.typing import Array


def fit_stochastic(
    estimator: Any,
    plan: FitPlan,
    examples: Examples,
    held_out: HeldOut | None,
    rng: Any,
    *,
    incremental: bool,
) -> None:
    """Train the estimator for at most `max_iter` epochs.   incremental: continue for one epoch."""
    if estimator.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    scores = getattr(estimator, "validation_scores_", None)
    if not hasattr(estimator, "loss_curve_") or estimator.early_stopping == (scores is None):
        begin_curves(estimator)
    if estimator.early_stopping and held_out is None:
        examples, held_out = set_aside(estimator, plan, examples, rng)
    seed = seed_of(estimator.random_state, rng)
    run = StochasticRun(estimator, plan, examples, held_out, seed=seed, incremental=incremental)
    watch = Watch(estimator, run.max_iter, *examples)
    try:
        run.epochs_until_the_end(watch)
    except KeyboardInterrupt:
        estimator._memory = None  # the interrupted step may have overwritten it
        warnings.warn("Training interrupted by user.", stacklevel=2)
    except FloatingPointError as error:
        if run.best is None:
            raise ValueError(NOT_FINITE) from error
        estimator._memory = None
        estimator.validation_scores_.append(np.nan)
        warnings.warn(
            f"Stochastic Optimizer: {error}. The weights of the best epoch are kept.",
            ConvergenceWarning,
            stacklevel=2,
        )
    if run.best is not None:
        estimator._show(plan, run.best)
    watch.close()


def begin_curves(estimator: Any) -> None:
    """Set the curves of an estimator before its first epoch."""
    stopping = estimator.early_stopping
    estimator.loss_curve_ = []
    estimator._no_improvement_count = 0
    estimator.best_loss_ = None if stopping else inf
    estimator.validation_scores_ = [] if stopping else None
    estimator.best_validation_score_ = -inf if stopping else None


def seed_of(random_state: Any, rng: Any) -> int:
    """The seed of the order of examples and of dropout."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return rng.randint(2**31 - 1)


class StochasticRun:
    """One run of an estimator: the values that all of its epochs share, and the best weights."""

    def __init__(
        self,
        estimator: Any,
        plan: FitPlan,
        examples: Examples,
        held_out: HeldOut | None,
        *,
        seed: int,
        incremental: bool,
    ) -> None:
        self.estimator, self.plan = estimator, plan
        self.examples, self.held_out = examples, held_out
        self.incremental = incremental
        self.max_iter = 1 if incremental else estimator.max_iter
        self.n_before = len(estimator.loss_curve_)
        # A warm start is a new run, with other orders than the last one.
        self.seed = seed if incremental else (seed + self.n_before) % 2**64
        self.batch_size = batch_size_of(estimator.batch_size, examples.X.shape[0])
        self.best: Array | None = None  # weights, with early stopping
        memory = estimator._memory
        if not incremental or memory is None or memory[0] != estimator.solver:
            estimator._memory = None
            estimator._rate = estimator.learning_rate_init

    def epochs_until_the_end(self, watch: Watch) -> None:
        """Train until the stopping rules, a callback, or the number of epochs end the run."""
        estimator = self.estimator
        estimator.n_iter_ = 0
        epochs = self.epochs(self.last_epoch() if self.incremental else None)
        while estimator.n_iter_ < self.max_iter:
            watch.begin()
            epoch = next(epochs)
            self.record(epoch)
            if improves(estimator) and estimator.early_stopping:
                with device_of(epoch.params).context():
                    self.best = epoch.params + 0.0
            if watch.end():
                return
            if estimator._no_improvement_count > estimator.n_iter_no_change:
                if is_final(estimator):
                    return
                estimator._no_improvement_count = 0
                epochs = self.epochs(epoch)
        if not self.incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def epochs(self, after: Epoch | None) -> Iterator[Epoch]:
        """The epochs of the training loop, from the start, or after an epoch with the current
        learning rate."""
        estimator, (X, codes, weights) = self.estimator, self.examples
        return train(
            self.plan.network,
            X,
            estimator._targets(codes),
            loss=self.plan.loss,
            optimizer=self.optimizer(),
            epochs=self.n_before + 1 if self.incremental else self.max_iter,
            batch_size=self.batch_size,
            short_batch="full",  # as in scikit-learn, so that the curves agree
            l2=self.plan.l2(estimator.alpha, self.batch_size, weights),
            sample_weight=None if weights is None else weights.values,
            shuffle=estimator.shuffle,
            seed=self.seed,
            device=self.plan.where,
            dtype=self.plan.dtype,
            precision=estimator.precision,
            kernels=self.plan.kernels,
            params=estimator._params(self.plan) if after is None else after.params,
            after=after,
        )

    def optimizer(self) -> Any:
        N = self.examples.X.shape[0]
        return optimizer_of(self.estimator, N, self.batch_size, incremental=self.incremental)

    def last_epoch(self) -> Epoch:
        """The end of the last `partial_fit`, as an epoch to continue from."""
        where, memory = self.plan.where, self.estimator._memory
        params = self.estimator._params(self.plan)
        if memory is None:
            state = self.optimizer().init(params, xp=where.xp)
        else:
            step, slots = memory[1]
            arrays = tuple(where.asarray(slot, self.plan.dtype) for slot in slots)
            state = State(where.asarray(step), arrays)
        return Epoch(self.n_before, params, state)

    def record(self, epoch: Epoch) -> None:
        """Record an epoch in the attributes of the estimator."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.t_ += self.examples.X.shape[0]
        estimator.loss_ = epoch.loss
        estimator.loss_curve_.append(epoch.loss)
        estimator._memory = estimator.solver, epoch.state
        estimator._show(self.plan, epoch.params)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if self.held_out is not None:
            validate(estimator, self.plan, self.held_out, score=estimator.early_stopping)


def improves(estimator: Any) -> bool:
    """Count the epochs without improvement. Returns whether this one is the best so far."""
    if estimator.early_stopping:
        score, best = estimator.validation_scores_[-1], estimator.best_validation_score_
        worse = score < best + estimator.tol
        if is_best := score > best:
            estimator.best_validation_score_ = score
    else:
        worse = estimator.loss_ > estimator.best_loss_ - estimator.tol
        if is_best := estimator.loss_ < estimator.best_loss_:
            estimator.best_loss_ = estimator.loss_
    estimator._no_improvement_count = estimator._no_improvement_count + 1 if worse else 0
    return is_best


def is_final(estimator: Any) -> bool:
    """Whether a lack of improvement ends the run, or lowers an adaptive rate."""
    name = "Validation score" if estimator.early_stopping else "Training loss"
    if estimator.solver != "sgd" or estimator.learning_rate != "adaptive":
        final, consequence = True, "Stopping."
    elif estimator._rate <= 1e-6:
        final, consequence = True, "Learning rate too small. Stopping."
    else:
        estimator._rate /= 5.0
        final, consequence = False, f"Setting learning rate to {estimator._rate:f}"
    if estimator.verbose:
        print(
            f"{name} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs. {consequence}"
        )
    return final
