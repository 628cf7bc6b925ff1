"""A phase of `gpu.py`: each library's bare matrix product, our steps, many networks at once."""

import argparse
import importlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.shared.precisions import PRECISIONS, jax_device, jax_precision, torch_precision
from bench.shared.rounds import Worker
from bench.shared.shapes import gpu_shapes
from nnaccel.devices.device import select
from nnaccel.training.benchmark import SHAPES, Shape, Trainer, examples, interleaved, measure
from nnaccel.training.step import initialize

SIZES = (2048, 4096, 8192)
MEMBERS = 64
LIMIT = 60.0  # seconds to wait for an answer
SERIES = 0.1  # seconds of a series of products; a tenth of that in a rehearsal
Product = Callable[[np.ndarray, np.ndarray], tuple[Callable[[], Any], Callable[[Any], np.ndarray]]]


def throughput(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    yield from bare_products(args)
    yield "members", members(args)
    shapes, devices = gpu_shapes(args.rehearse), [args.device, "cpu"]
    for name in dict.fromkeys(devices):
        for shape in shapes:
            if name == "cpu" and shape.flops > 1e12:
                shape = shape._replace(batch=shape.batch // 16)  # or an epoch takes a minute
            seconds = 0.05 if args.rehearse else 1.0
            yield f"step {name} {shape.name}", measure(shape, select(name), seconds)._asdict()


def bare_products(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """TFLOP/s and error of A B by library, precision and size, each in a separate process."""
    pairs = [(lib, p) for p in args.precisions for lib in PRODUCTS]
    workers = {pair: Worker(["product", *pair, args.device], args.threads) for pair in pairs}
    for library, precision in pairs:
        worker = workers[library, precision]
        try:
            rates, error = {}, 0.0
            for n in (64, 128) if args.rehearse else SIZES:
                seconds, wrong = worker.ask(n, int(not rates), limit=LIMIT)
                rates[str(n)] = 2 * n**3 / seconds / 1e12
                error = wrong if wrong >= 0 else error
            result = {"tflops": rates, "error": error}
            if not error <= PRECISIONS[precision].error:
                result["problem"] = f"{library} in {precision} has an error of {error:.1e}"
        except RuntimeError as died:
            kind = "note" if "No module named" in str(died) else "problem"
            result = {kind: f"{library} in {precision}: {died}"}
        worker.close()
        yield f"product {library} {precision}", result


def worker(library: str, precision: str, device: str) -> Callable[[int, int], tuple[float, float]]:
    """A function (size, whether to check) -> (seconds of a product, relative error)."""
    if precision == "tf32":
        os.environ["CUPY_TF32"] = "1"  # read when CuPy is imported
    product = PRODUCTS[library](precision, device)
    series = SERIES if device == "cuda" else SERIES / 10

    def work(n: int, check: int) -> tuple[float, float]:
        # Normal numbers, repeated with a period that is unrelated to n.
        numbers = np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32)
        A, B = np.resize(numbers, (n, n)), np.resize(numbers[::-1], (n, n))
        multiply, rows = product(A, B)
        error = -1.0
        if check:
            expected = A[:16].astype(np.float64) @ B.astype(np.float64)
            found = rows(multiply()).astype(np.float64)
            error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        return seconds_of(multiply, rows, series), error

    return work


def seconds_of(
    multiply: Callable[[], Any], rows: Callable[[Any], Any], series: float = SERIES
) -> float:
    """Seconds of one product, the best of three series, each long enough for the wait at its end to
    be negligible."""
    rows(multiply())
    times, best = 1, float("inf")
    for _ in range(4):
        started = time.perf_counter()
        for _ in range(times):
            result = multiply()
        rows(result)  # waits for the device
        seconds = (time.perf_counter() - started) / times
        best, times = min(best, seconds), max(1, round(series / seconds))
    return best


def _cupy(precision: str, device: str) -> Product:
    """CuPy's `matmul`; NumPy's in a rehearsal."""
    from nnaccel.devices.device import to_host

    where = select(device)

    def product(A: np.ndarray, B: np.ndarray) -> Any:
        if precision == "bf16":
            from ml_dtypes import bfloat16

            A, B = A.astype(bfloat16), B.astype(bfloat16)
        # Not by `where.asarray`, which does not support bfloat16.
        library = importlib.import_module("cupy" if where.library == "cupy" else "numpy")
        A, B = library.asarray(A), library.asarray(B)
        out = library.empty_like(A)
        return (lambda: library.matmul(A, B, out=out)), lambda C: to_host(C[:16])

    return product


def _nnaccel(precision: str, device: str) -> Product:
    """nnaccel's product by cuBLASLt; NumPy's `matmul` in a rehearsal."""
    from nnaccel.devices.device import to_host

    where = select(device)
    if where.library != "cupy":
        return _cupy(precision, device)
    from nnaccel.kernels.cuda.workspace import Workspace

    def product(A: np.ndarray, B: np.ndarray) -> Any:
        space = Workspace(where.xp, "float32" if precision == "ieee" else precision)
        left, right = (space.copies.factor(where.asarray(x)) for x in (A, B))
        out = where.asarray(np.empty_like(A))
        return (lambda: space.products.matmul(left, right, out)), lambda C: to_host(C[:16])

    return product


def _torch(precision: str, device: str) -> Product:
    import torch

    dtype = torch.bfloat16 if torch_precision(precision) else torch.float32

    def product(A: np.ndarray, B: np.ndarray) -> Any:
        left, right = (torch.from_numpy(x).to(device, dtype) for x in (A, B))
        out = torch.empty_like(left)
        return (lambda: torch.matmul(left, right, out=out)), lambda C: C[:16].float().cpu().numpy()

    return product


def _jax(precision: str, device: str) -> Product:
    import jax
    import jax.numpy as jnp

    dtype = jax_precision(precision) or jnp.float32
    matmul = jax.jit(jnp.matmul)

    def product(A: np.ndarray, B: np.ndarray) -> Any:
        left, right = (jax.device_put(x, jax_device(device)).astype(dtype) for x in (A, B))
        return (lambda: matmul(left, right)), lambda C: np.asarray(C[:16].astype(jnp.float32))

    return product


PRODUCTS: dict[str, Callable[[str, str], Product]] = {
    "nnaccel": _nnaccel,
    "cupy": _cupy,
    "torch": _torch,
    "jax": _jax,
}


def members(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an epoch of K networks: at once, with a leading axis of the parameters, and one
    after the other."""
    shape: Shape = SHAPES[1]
    K, device = 4 if args.rehearse else MEMBERS, select(args.device)
    X, Y, order = examples(shape)
    order = device.asarray(order[: 8 * shape.batch] if args.rehearse else order)
    params = initialize(shape.network, members=K)

    def trainer(start: np.ndarray) -> Trainer:
        return Trainer(shape, X, Y, device, params=start)

    together, single = trainer(params), [trainer(start) for start in params]

    def one_by_one() -> None:
        for each in single:
            each.epoch(order)

    steps = order.shape[0] // shape.batch
    seconds = 0.1 if args.rehearse else 5.0
    best = interleaved(lambda: together.epoch(order), one_by_one, seconds=seconds)
    return {
        "networks": K,
        "shape": shape.name,
        "together_ms": 1e3 * best[0] / steps,
        "one_by_one_ms": 1e3 * best[1] / steps,
    }
