"""Redraw the figures of the notes: `python docs/figures.py`, with the [plot] extra installed.

Boundaries and weights come out the same every time; seconds depend on the machine.
"""

import math
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # files only: no display is needed

import matplotlib.pyplot as plt
import numpy as np

from nnaccel.maths.network import layout, mlp, views
from nnaccel.maths.optimizers import gradient_descent
from nnaccel.tabular.datasets import load
from nnaccel.training.loop import train
from nnaccel.training.prediction import predict
from nnaccel.training.step import initialize

FOLDER = Path(__file__).parent / "figures"

# Okabe and Ito's colours, which colour-blind readers tell apart too.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#555555"
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "figure.dpi": 120,
    "savefig.bbox": "tight",
}


def descend(network, X, y, alpha, iterations):
    """The epochs of plain gradient descent on all examples."""
    return train(
        network,
        X,
        y,
        loss="binary_cross_entropy",
        optimizer=gradient_descent(alpha),
        epochs=iterations,
        batch_size=len(X),
        shuffle=False,
    )


def decision_boundary():
    """The planar flower, cut by logistic regression and by four hidden tanh units."""
    flower = load("planar")
    models = [
        ("Logistic regression", mlp(2, [], 1, initializer="zeros"), 0.1, 1000),
        ("Four hidden tanh units", mlp(2, [4], 1, activation="tanh"), 1.2, 5000),
    ]
    axis = np.linspace(-4.6, 4.6, 400)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 4.3), sharey=True, layout="constrained")
    for ax, (title, network, alpha, iterations) in zip(axes, models, strict=True):
        *_, last = descend(network, flower.X, flower.y, alpha, iterations)
        Z = predict(network, last.params, grid.reshape(-1, 2)).reshape(grid.shape[:2])
        right = np.mean((predict(network, last.params, flower.X)[:, 0] > 0) == flower.y)
        ax.contourf(axis, axis, Z > 0, [-0.5, 0.5, 1.5], colors=[BLUE, ORANGE], alpha=0.22)
        ax.contour(axis, axis, Z, [0], colors="black", linewidths=1.4)
        for label, colour, marker in [(0, BLUE, "o"), (1, ORANGE, "^")]:
            x1, x2 = flower.X[flower.y == label].T
            ax.scatter(
                x1,
                x2,
                s=22,
                c=colour,
                marker=marker,
                edgecolors="white",
                linewidths=0.4,
                label=f"$y$ = {label}",
            )
        ax.set(title=f"{title}: {right:.0%} correct", xlabel="$x_1$", aspect="equal")
    axes[0].set_ylabel("$x_2$")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, handletextpad=0.1)
    return fig


def initialisation():
    """The first incoming weight of each hidden unit, from zeros and from small random numbers."""
    flower = load("planar")
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.8), sharey=True, layout="constrained")
    for ax, (title, initializer) in zip(
        axes,
        [("Weights start at zero", "zeros"), ("Weights start at randn × 0.01", "small_normal")],
        strict=True,
    ):
        network = mlp(2, [4], 1, activation="sigmoid", initializer=initializer)
        steps = [initialize(network)]
        steps += [epoch.params.copy() for epoch in descend(network, flower.X, flower.y, 1.2, 3000)]
        (W, _), _ = views(np.stack(steps), layout(network), xp=np)
        for unit, (colour, width) in enumerate(
            zip([PURPLE, GREEN, ORANGE, BLUE], [9, 6.2, 3.6, 1.4], strict=True)
        ):
            # Under zeros the lines lie on each other: only their widths tell that there are four.
            ax.plot(
                W[:, 0, unit],
                color=colour,
                linewidth=width if initializer == "zeros" else 2,
                solid_capstyle="butt",
                label=f"unit {unit + 1}",
            )
        ax.set(title=title, xlabel="iteration")
    axes[0].text(1500, -1.2, "four units, one line", color=GREY)
    axes[0].set_ylabel(r"$w^{[1]}_{j1}$, a weight into unit $j$")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return fig


def by_loops(W1, b1, w2, b2, X, y, alpha):
    """One iteration of the notes by loops over examples and neurons, on plain lists of floats.

    Updates W1, b1 and w2 in place; returns the loss and the new b2.
    """
    m, neurons = len(X), range(len(W1))
    J, db2 = 0.0, 0.0
    dW1, db1, dw2 = [[0.0, 0.0] for _ in neurons], [0.0 for _ in neurons], [0.0 for _ in neurons]
    for (x1, x2), target in zip(X, y, strict=True):
        a1, z2 = [], b2
        for j in neurons:
            a1.append(math.tanh(W1[j][0] * x1 + W1[j][1] * x2 + b1[j]))
            z2 += w2[j] * a1[j]
        a2 = 1 / (1 + math.exp(-z2))
        J -= math.log(a2 if target else 1 - a2) / m
        dz2 = a2 - target
        db2 += dz2 / m
        for j in neurons:
            dz1 = w2[j] * dz2 * (1 - a1[j] ** 2)
            dw2[j] += dz2 * a1[j] / m
            dW1[j][0] += dz1 * x1 / m
            dW1[j][1] += dz1 * x2 / m
            db1[j] += dz1 / m
    for j in neurons:
        W1[j][0] -= alpha * dW1[j][0]
        W1[j][1] -= alpha * dW1[j][1]
        b1[j] -= alpha * db1[j]
        w2[j] -= alpha * dw2[j]
    return J, b2 - alpha * db2


def loops_and_vectors():
    """The loss against the clock, once with loops and once with matrix products."""
    alpha, iterations = 0.6, 300
    flower = load("planar")
    network = mlp(2, [50], 1, activation="tanh")

    def vectorised():
        for epoch in descend(network, flower.X, flower.y, alpha, iterations):
            yield epoch.loss, epoch.seconds

    def loops():
        (W1, b1), (W2, b2) = views(initialize(network), layout(network), xp=np)
        W1, b1, w2, b2 = W1.T.tolist(), b1[0].tolist(), W2[:, 0].tolist(), b2.item()
        X, y = flower.X.tolist(), flower.y.tolist()
        for _ in range(iterations):
            started = time.perf_counter()
            J, b2 = by_loops(W1, b1, w2, b2, X, y, alpha)
            yield J, time.perf_counter() - started

    def curve(run):
        """Losses and the time so far, each iteration at its fastest of three runs."""
        runs = np.array([list(run()) for _ in range(3)])
        return runs[0, :, 0], np.cumsum(runs[:, :, 1].min(axis=0))

    curves = curve(vectorised), curve(loops)
    # The same mathematics, or there would be nothing to compare.
    np.testing.assert_allclose(curves[0][0], curves[1][0], rtol=1e-6)

    fig, ax = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
    names = "matrix products", "loops over examples\nand neurons"
    for name, colour, line, (loss, at) in zip(
        names, (BLUE, ORANGE), ("-", "--"), curves, strict=True
    ):
        ax.plot(at, loss, line, color=colour, linewidth=2.4)
        ax.plot(at[-1], loss[-1], "o", color=colour, markersize=7)
        ax.annotate(
            f"{name}\n{at[-1]:.2g} s",
            (at[-1], loss[-1]),
            (0, -12),
            textcoords="offset points",
            ha="right",
            va="top",
            color="black",
        )
    faster = curves[1][1][-1] / curves[0][1][-1]
    ax.set(
        title=f"The same {iterations} iterations with the same losses, {faster:.0f} times faster",
        xlabel="seconds since the start (logarithmic)",
        ylabel="loss $J$",
        xscale="log",
        ylim=(0, 0.85),
    )
    return fig


FIGURES = {
    "decision_boundary": decision_boundary,
    "initialisation": initialisation,
    "loops_and_vectors": loops_and_vectors,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            path = FOLDER / f"{name}.png"
            draw().savefig(path, pil_kwargs={"optimize": True})
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
