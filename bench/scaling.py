"""Times steps of one network on 1, 2, ... processes of JAX, and computes their efficiency.

    python bench/scaling.py --processes 1 2 4

In strong scaling the processes divide one minibatch; in weak scaling each process has a minibatch
of that size. Every process has one thread of a processor, or with `--platform gpu` one GPU. An
epoch is timed in each of several rounds, and the best one counts.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np

from bench.shared.report import about, heading, load, write
from bench.shared.script import run

ROWS, STEPS, ROUNDS = 256, 20, 5
SIZES = (784, 512, 512, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(seconds_of_a_step(**args.worker)))
        return
    found, rows = about(1, ("nnaccel", "numpy", "jax")), []
    said = load()
    for kind in ("strong", "weak"):
        base = 0.0
        for n in args.processes:
            batch = ROWS if kind == "strong" else ROWS * n
            seconds = together(n, batch, args.platform)
            base = base or seconds * args.processes[0] ** (kind == "strong")
            efficiency = base / seconds / (n if kind == "strong" else 1)
            rows.append({"kind": kind, "processes": n, "batch": batch, "seconds": seconds,
                         "efficiency": efficiency})  # fmt: skip
    found["rows"] = rows
    lines = ["| scaling | processes | batch | ms a step | efficiency |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['kind']} | {r['processes']} | {r['batch']} | {1e3 * r['seconds']:.2f} | "
        f"{r['efficiency']:.2f} |"
        for r in rows
    ]
    sizes = "-".join(map(str, SIZES))
    text = "\n".join([heading(found), f"{sizes}, ReLU, Adam, float32.\n", *lines, "", said]) + "\n"
    print(text)
    write(found, "scaling", text)


def together(n: int, batch: int, platform: str) -> float:
    """Seconds of a step on n processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = "--xla_cpu_multi_thread_eigen=false" if platform == "cpu" else ""
    environment = os.environ | {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"}
    if platform == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    children = []
    for i in range(n):
        options = {"address": address, "n": n, "i": i, "batch": batch, "platform": platform}
        own = environment | ({"CUDA_VISIBLE_DEVICES": str(i)} if platform == "gpu" else {})
        command = [sys.executable, __file__, "--worker", json.dumps(options)]
        children.append(subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True))
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"a process of {n} ended with an error")
    return max(float(text.splitlines()[-1]) for text in said)


def seconds_of_a_step(address: str, n: int, i: int, batch: int, platform: str) -> float:
    """Seconds of a step in the best epoch of this process."""
    import jax

    import nnaccel as nn

    if n > 1:
        jax.distributed.initialize(address, n, i)
    if hasattr(os, "sched_setaffinity") and platform == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[i % len(cores)]})
    rng = np.random.default_rng(0)
    X = rng.standard_normal((batch * STEPS, SIZES[0])).astype("float32")
    Y = rng.integers(0, SIZES[-1], len(X))
    epochs = nn.train(
        nn.mlp(SIZES[0], SIZES[1:-1], SIZES[-1]), X, Y, loss="softmax_cross_entropy",
        epochs=ROUNDS + 1, batch_size=batch, device=f"jax:{platform}:*",
    )  # fmt: skip
    next(epochs)  # compiles
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        next(epochs)
        times.append(time.perf_counter() - started)
    return min(times) / STEPS


if __name__ == "__main__":
    run(main)
