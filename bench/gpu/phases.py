"""Phases of `gpu.py`: the machine, the CUDA sources, the tests, CPU against GPU, and a fit."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bench.shared.precisions import PRECISIONS
from bench.shared.report import LIBRARIES, ROOT, about
from bench.shared.rounds import timed
from bench.shared.script import environment
from nnaccel.kernels.cuda.signatures import expressions
from nnaccel.kernels.cuda.source import kernel_source

GPU_LIBRARIES = ("cupy-cuda12x", "cupy-cuda13x", "jaxlib", "triton", "array-api-compat")
DTYPES = ("float32", "float64")
MNIST_EPOCHS = 5
PROCESSES = 8  # test processes; as many again may replace the ones that crash
HANGS = 60  # seconds after which a test counts as hanging
HIDDEN, BATCH = (512, 512), 256  # of the network that is trained to the accuracy GOAL
GOAL, MOST_EPOCHS = 0.98, 30


def machine(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The machine, and the devices that each library finds on it."""
    if smi := shutil.which("nvidia-smi"):
        query = "name,driver_version,memory.total,memory.used,clocks.max.sm,power.limit"
        words = [smi, f"--query-gpu={query}", "--format=csv,noheader"]
        yield "nvidia-smi", f"{query}: {output_of(words).strip()}"
    if args.device == "cuda":
        from cupy.cuda import runtime

        properties = runtime.getDeviceProperties(0)
        yield (
            "cuda",
            {
                "name": properties["name"].decode(),
                "capability": f"{properties['major']}.{properties['minor']}",
                "multiprocessors": properties["multiProcessorCount"],
                "memory": properties["totalGlobalMem"],
                "driver": runtime.driverGetVersion(),
                "runtime": runtime.runtimeGetVersion(),
            },
        )
    yield "machine", about(args.threads, (*LIBRARIES, *GPU_LIBRARIES))["machine"]
    from nnaccel.devices.available import available

    # Not under "problem": the phases of a library that finds no GPU report it.
    yield "devices", {d.name: d.problem or f"{d.library}, {d.hardware}" for d in available()}


def output_of(words: list[str], **options: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    return done.stdout + done.stderr


def sources(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Compiles every CUDA kernel; the assembler reports its registers and spills. A rehearsal
    compiles one kernel, since all of them take ten seconds."""
    compiler = shutil.which("nvcc")
    if not compiler:
        yield "nvcc", {"note": "nvcc is not on the PATH"}
        return
    kernels = list(expressions())[: 1 if args.rehearse else None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cu"
        path.write_text(kernel_source())
        yield "kernels/cuda", compiled(compiler, path, args.arch, kernels)


def compiled(
    compiler: str, path: Path, arch: str, expressions: Sequence[str] = ()
) -> dict[str, Any]:
    """The resources of the kernels of a source, including the template instances that the
    expressions name; or the problem with the source."""
    # Taking the address of a template instance makes the compiler generate it.
    addresses = "".join(f"(void*){name}, " for name in expressions)
    text = f'#include "{path}"\nvoid* kernels[] = {{{addresses}nullptr}};\n'
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "all.cu", Path(folder) / "all.cubin"
        source.write_text(text)
        words = [compiler, "-cubin", f"-arch={arch}", "-std=c++17", "-ftz=true", "-Xptxas", "-v"]
        done = subprocess.run(
            [*words, "-o", str(out), str(source)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        lines = done.stderr.replace(str(path), path.name).splitlines()
        wrong = [line for line in lines if "error" in line]
        return {"problem": wrong[0] if wrong else f"nvcc ends with status {done.returncode}"}
    return {"arch": arch, "kernels": kernels_in(done.stderr)}


def kernels_in(report: str) -> dict[str, dict[str, int]]:
    """Registers, and bytes of stack and spills, of each kernel, from the output of
    `nvcc -Xptxas -v`."""
    kernels: dict[str, dict[str, int]] = {}
    numbers: dict[str, int] = {}
    patterns = {
        "registers": r"Used (\d+) registers",
        "stack": r"(\d+) bytes stack frame",
        "spill_stores": r"(\d+) bytes spill stores",
        "spill_loads": r"(\d+) bytes spill loads",
    }
    for line in report.splitlines():
        if name := re.search(r"Compiling entry function '(.+?)'", line):
            numbers = kernels[name[1]] = {}
        elif "Function properties for" in line and not line.rstrip().endswith(tuple(kernels)):
            numbers = {}  # discards the numbers of a function that is not a kernel
        for what, pattern in patterns.items():
            if number := re.search(pattern, line):
                numbers[what] = int(number[1])
    return kernels


def tests(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Runs `pytest -m gpu`: each failure immediately, and the summary line at the end."""
    few = (["tests/devices/test_device.py"], 1) if args.rehearse else ([], PROCESSES)
    yield from reported(pytest_words(*few))


def pytest_words(paths: Sequence[str], processes: int) -> list[str]:
    """The pytest command. Several processes compile kernels at the same time. A test that hangs, or
    that leaves CUDA in a permanent error, ends its process, and a new process replaces it."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--tb=short", "-rN"]
    words += ["-p", "bench.gpu.failures_at_once", "-p", "no:cacheprovider"]
    if find_spec("xdist"):
        words += ["-n", str(processes), "--max-worker-restart", str(PROCESSES)]
    if find_spec("pytest_timeout"):
        words += ["--timeout", str(HANGS), "--timeout-method", "thread"]
    return [*words, *paths]


def reported(words: list[str], folder: Path = ROOT) -> Iterator[tuple[str, Any]]:
    """The failures of a pytest run under their names, and the summary under "pytest"."""
    lines = []
    with subprocess.Popen(
        words,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)  # to the log
            lines += [line.strip()] if line.strip() else []
            if line.startswith(("FAILED ", "ERROR ")):
                _, name, reason = line.strip().split(" ", 2)
                yield name, {"problem": f"{name} {reason}"}
    summary = lines[-1].strip("= ") if lines else "pytest said nothing"
    problem = {"problem": f"pytest: {summary}"} if process.returncode else {}
    yield "pytest", {"summary": summary} | problem


def parity(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Runs the same training from the command line on both devices, and compares losses,
    predictions and seconds."""
    dtypes, epochs = (DTYPES[:1], ["--epochs", "2"]) if args.rehearse else (DTYPES, [])
    problems = {"digits": ("digits", epochs)}
    if args.mnist:
        problems["mnist"] = (str(args.mnist.resolve()), ["--epochs", str(MNIST_EPOCHS)])
    else:
        yield "mnist", {"note": "skipped: --mnist FILE.npz is not given"}
    for name, (source, options) in problems.items():
        for dtype in dtypes:
            with tempfile.TemporaryDirectory() as folder:
                yield f"{name} {dtype}", compare(source, [*options, "--dtype", dtype], folder, args)


def compare(
    source: str, options: list[str], folder: str, args: argparse.Namespace
) -> dict[str, Any]:
    """Compares one training on the GPU, run twice since the first run compiles kernels, with the
    same training on the CPU."""
    from nnaccel import Model

    paths = {"first": "first", args.device: "device", "cpu": "host"}
    seconds, files = {}, {}
    for name, file in paths.items():
        files[name] = Path(folder) / f"{file}.safetensors"
        device = args.device if name == "first" else name
        words = [sys.executable, "-m", "nnaccel", "train", source, *options]
        words += ["--device", device, "--output", str(files[name])]
        seconds[name], done = timed(
            lambda words=words: subprocess.run(
                words, cwd=ROOT, capture_output=True, text=True, check=False
            )
        )
        if done.returncode:
            return {"problem": f"on {device}: {(done.stderr.strip() or 'failed').splitlines()[-1]}"}
    there, here = (Model.load(files[name]) for name in (args.device, "cpu"))
    differences = differences_of(there.history, here.history)
    return {
        "seconds": seconds,
        "difference": differences,
        "largest_difference": max(differences, default=0.0),
        "scores": {"device": plain(there.scores), "cpu": plain(here.scores)},
        "predictions": predictions(there, source, args.device),
    }


def differences_of(a: list[dict[str, float]], b: list[dict[str, float]]) -> list[float]:
    """The largest relative difference of a loss in each epoch; infinity for NaN."""
    found = []
    for one, other in zip(a, b, strict=True):
        names = [name for name in one if name.endswith("loss")]
        errors = [abs(one[n] - other[n]) / max(abs(other[n]), 1e-30) for n in names]
        found.append(max(float(e) if np.isfinite(e) else float("inf") for e in errors))
    return found


def plain(scores: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def predictions(model: Any, source: str, device: str) -> dict[str, float]:
    """Compares the predictions of a model, trained on the device, on the device and on the CPU."""
    from nnaccel import read, select

    data = read(source).data
    there, here = (model.outputs(data, select(name)) for name in (device, "cpu"))
    return {
        "rows": len(here),
        "largest_difference": float(np.max(np.abs(there - here))),
        "same_labels": float(np.mean(there.argmax(axis=1) == here.argmax(axis=1))),
    }


def fit(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Seconds from arrays on the host to the accuracy GOAL on the test rows of MNIST, evaluated
    after each epoch; a rehearsal uses digits. The first run of a process compiles kernels."""
    from nnaccel import read

    if not (args.mnist or args.rehearse):
        yield "mnist", {"note": "skipped: --mnist FILE.npz is not given"}
        return
    examples = read("digits" if args.rehearse else str(args.mnist.resolve()))
    X, y = examples.data, examples.y
    test = (X, y) if examples.test is None else (examples.test.data, examples.test.y)
    scale, classes = np.float32(X.max()), np.unique(y)
    train, held = (
        (np.asarray(data, np.float32) / scale, np.searchsorted(classes, labels))
        for data, labels in ((X, y), test)
    )
    yield f"{args.device}, first", seconds_to_goal(train, held, args)
    for name in args.precisions:
        yield f"{args.device}, {name}", seconds_to_goal(train, held, args, PRECISIONS[name].nnaccel)
    yield "cpu", seconds_to_goal(train, held, args, device="cpu")


def seconds_to_goal(
    rows: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    args: argparse.Namespace,
    options: Mapping[str, Any] = MappingProxyType({}),
    device: str | None = None,
) -> dict[str, Any]:
    """The result of one training; a problem if it does not reach the goal."""
    from nnaccel.maths.metrics import for_loss
    from nnaccel.maths.network import mlp
    from nnaccel.training.loop import train

    X, Y = rows
    loss, hidden, goal = "softmax_cross_entropy", HIDDEN, GOAL
    if args.rehearse:
        hidden, goal = (16,), 0.9
    started, best = time.perf_counter(), 0.0
    for epoch in train(
        mlp(X.shape[1], hidden, int(Y.max()) + 1),
        X,
        Y,
        loss=loss,
        epochs=MOST_EPOCHS,
        batch_size=16 if args.rehearse else BATCH,
        validation_data=test,
        metric=for_loss(loss),
        device=device or args.device,
        **options,
    ):
        best = max(best, epoch.validation_metric)
        if best >= goal:
            seconds = time.perf_counter() - started
            return {"seconds": seconds, "epochs": epoch.number, "accuracy": best}
    return {"problem": f"comes to {best:.4f} in {MOST_EPOCHS} epochs, the goal is {goal}"}
