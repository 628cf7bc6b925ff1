"""The run on a GPU, rehearsed on the CPU."""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import pytest

pytest.importorskip(
    "bench.shared.measures", reason="the benchmarks are not part of this distribution"
)

from bench.gpu import (
    both_ways,
    first_minutes,
    launches,
    peers,
    phases,
    report,
    schedule,
    step_details,
)
from bench.peers.contestants import GPU_CONTESTANTS
from bench.shared import script
from bench.shared.report import ROOT
from bench.shared.shapes import LARGE, SHAPES, Shape, problem
from nnaccel.devices.device import select
from nnaccel.training import benchmark
from tests.kernels.cuda import cuda_on_host


def test_precisions_share_the_time(monkeypatch):
    """And a shape that would take longer than what is left is left out."""
    clock, ran = [0.0], []

    class Race:
        def __init__(self, precision, folder, args):
            self.precision = precision

        def run(self, number, shape):
            ran.append((self.precision, number))
            clock[0] += 40.0
            return {"contestants": {}}

        def close(self):
            pass

    monkeypatch.setattr(peers, "Race", Race)
    monkeypatch.setattr(peers.time, "monotonic", lambda: clock[0])
    args = Namespace(rehearse=True, shapes=None, precisions=["ieee", "tf32", "bf16"], stop=160.0)
    results = dict(peers.peers(args))
    assert ran == [("ieee", 1), ("ieee", 0), ("tf32", 1), ("bf16", 1)]
    assert [name for name, r in results.items() if "note" in r] == [
        "tf32 2-4-1x16",
        "bf16 2-4-1x16",
    ]


def test_the_assembler_is_read():
    said = """\
ptxas info    : Compiling entry function '_Z3addPf' for 'sm_90'
ptxas info    : Function properties for _Z3addPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compiling entry function 'large' for 'sm_90'
ptxas info    : Function properties for large
    160 bytes stack frame, 24 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 160 bytes cumulative stack size
ptxas info    : Function properties for _Z1ff
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""
    kernels = phases.kernels_in(said)
    assert kernels == {
        "_Z3addPf": {"stack": 0, "spill_stores": 0, "spill_loads": 0, "registers": 8},
        "large": {"stack": 160, "spill_stores": 24, "spill_loads": 16, "registers": 255},
    }
    text = report.sources({"kernels/cuda": {"kernels": kernels}}, {})
    assert "| kernels/cuda | 2 | 255 | 1 |" in text
    assert "- `large` spills 40 bytes" in text


def test_cuda_sources_are_compiled(tmp_path):
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not on the PATH")
    compiled, source = phases.compiled, tmp_path / "one.cu"
    source.write_text("template <class T> __global__ void twice(T* x) { *x *= 2; }\n")
    assert compiled(compiler, source, "sm_90")["kernels"] == {}
    kernels = compiled(compiler, source, "sm_90", ["twice<float>", "twice<double>"])["kernels"]
    assert len(kernels) == 2
    assert "error" in compiled(compiler, source, "sm_90", ["thrice<float>"])["problem"]
    source.write_text("int x = ;\n")
    assert compiled(compiler, source, "sm_90")["problem"].startswith("one.cu(1): error")
    hold = tmp_path / "hold.cu"
    hold.write_text(launches.HOLD)
    assert list(compiled(compiler, hold, "sm_90")["kernels"]) == ["hold"]


def test_calls_of_a_step_and_of_an_epoch():
    def trace(steps):
        kernels = [{"cat": "kernel", "name": "gemm"}, {"cat": "kernel", "name": "gemm"}]
        calls = {"cuda_driver": "cuLaunchKernel", "cuda_runtime": "cudaGraphLaunch"}
        step = kernels + [{"cat": kind, "name": name} for kind, name in calls.items()]
        step.append({"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)"})
        end = [{"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)"}]
        end += [{"cat": "cuda_runtime", "name": "cudaStreamSynchronize"}, {"cat": "cpu_op"}]
        return steps * step + end

    found = launches.per_step(*(launches.tally(trace(n * launches.STEPS)) for n in (1, 2)))
    assert found["step"] == {
        "kernels": 2.0,
        "kernel gemm": 2.0,
        "launches": 2.0,
        "call cuLaunchKernel": 1.0,
        "graphs": 1.0,
        "call cudaGraphLaunch": 1.0,
        "Memcpy DtoD": 1.0,
    }
    assert found["epoch"] == {"Memcpy DtoH": 1.0, "waits": 1.0, "call cudaStreamSynchronize": 1.0}
    nothing = launches.per_step(launches.tally([]), launches.tally([]))
    assert nothing["note"] == "the profiler has seen no kernels"


def test_epochs_of_large_networks_differ_in_length_too(monkeypatch):
    """Of which there are examples for eight steps: what more steps add is a step."""

    class Trainer:
        def __init__(self, *_, **__):
            pass

        def epoch(self, order):
            self.steps = len(order) // shape.batch
            return self.steps

    def profiled(function):
        return function() * [{"cat": "kernel", "name": "gemm"}]

    shape = SHAPES[3]._replace(sizes=(4, 8, 8, 2))
    data = np.zeros((8 * shape.batch, 4)), np.zeros(8 * shape.batch), np.arange(8 * shape.batch)
    monkeypatch.setattr(launches, "Trainer", Trainer)
    monkeypatch.setattr(launches, "profiled", profiled)
    monkeypatch.setattr(launches, "examples", lambda shape: data)
    found = launches.calls(shape, Namespace(device="cpu"))
    assert found == {"step": {"kernels": 1.0, "kernel gemm": 1.0}, "epoch": {}}


def test_an_epoch_on_a_gpu_has_enough_steps_for_its_own_work_not_to_count(tmp_path, monkeypatch):
    """Of the peers, and of `nnaccel bench`, whose bare products are as many."""
    assert [shape.steps_on_gpu for shape in SHAPES] == [1024, 128, 128, 128]
    assert LARGE.steps_on_gpu == 32
    some = Shape((3, 4, 2), 5)
    monkeypatch.setattr(Shape, "steps", 8)
    monkeypatch.setattr(Shape, "steps_on_gpu", 128)
    given = problem(some)
    peers.save(given, tmp_path / "0.npz")
    order = peers.load(tmp_path / "0.npz").order
    assert order.shape == (128, 5)
    np.testing.assert_array_equal(order, np.tile(given.order, (16, 1)))

    device, asked = select("cpu"), []
    products, trainer = benchmark.products, benchmark.Trainer

    class Counting(trainer):
        def epoch(self, order):
            asked.append(("steps", len(order) / some.batch))
            return super().epoch(order)

    def counting(*args):
        bare = products(*args)
        return lambda steps: asked.append(("products", steps)) or bare(steps)

    monkeypatch.setattr(benchmark, "Trainer", Counting)
    monkeypatch.setattr(benchmark, "products", counting)
    row = benchmark.measure(some, device._replace(name="cuda:0"), 0.01)
    assert not row.problem
    assert set(asked) == {("steps", 128), ("products", 128)}
    asked.clear()
    benchmark.measure(some, device, 0.01)
    assert set(asked) == {("steps", 8), ("products", 8)}


HANGING = """
import os, time
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(6))
def test_one(number):
    if number == 1:
        time.sleep(3600)
    assert number != 3, "three"
    if number == 4:
        os._exit(1)

@pytest.mark.gpu
def test_two(nothing):
    pass
"""


def test_a_test_that_hangs_costs_its_own_limit(tmp_path, monkeypatch):
    """As one that ends its process does; each failure is there before the end."""
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_timeout")
    monkeypatch.setattr(phases, "HANGS", 1)
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: of this test")
    words = phases.pytest_words(["test_hanging.py"], processes=2)
    *failures, (name, last) = phases.reported(words, tmp_path)
    assert name == "pytest"
    assert "3 passed" in last["summary"]
    assert last["problem"].startswith("pytest: ")
    found = dict(failures)
    assert set(found) == {f"test_hanging.py::test_one[{i}]" for i in (1, 3, 4)} | {
        "test_hanging.py::test_two"
    }
    assert "crashed while running" in found["test_hanging.py::test_one[1]"]["problem"]
    assert "three" in found["test_hanging.py::test_one[3]"]["problem"]
    assert "fixture 'nothing' not found" in found["test_hanging.py::test_two"]["problem"]
    text = report.tests(dict(failures), {})
    assert text.startswith("pytest has not come to its end\n\n- `test_hanging.py::")


def test_tests_need_neither_of_the_plugins(monkeypatch):
    monkeypatch.setattr(phases, "find_spec", lambda _: None)
    words = phases.pytest_words([], 8)
    assert not {"-n", "--timeout", "--max-worker-restart"} & set(words)


def test_losses_are_compared_epoch_by_epoch():
    a = [{"loss": 2.0, "validation_loss": 1.0, "metric": 5.0}, {"loss": math.nan}]
    b = [{"loss": 1.0, "validation_loss": 1.1, "metric": 9.0}, {"loss": 1.0}]
    assert phases.differences_of(a, b) == [1.0, math.inf]


def run_gpu(folder, *words, status=0, **environment):
    """What `gpu.py` prints, and what it leaves."""
    done = subprocess.run(
        [sys.executable, "bench/gpu/gpu.py", "--out", str(folder), *words],
        cwd=ROOT,
        env=script.environment(CUDA_VISIBLE_DEVICES="", **environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "gpu.json").read_text())


BARE = """
from importlib.machinery import PathFinder

def find_spec(name, path=None, target=None, find=PathFinder.find_spec):
    absent = name.partition(".")[0] in ("array_api_compat", "hatchling")
    return None if absent else find(name, path, target)

PathFinder.find_spec = find_spec
"""


@pytest.fixture
def bare(tmp_path):
    """The environment of a machine without the packages of nnaccel, and without this checkout on
    its path."""
    (tmp_path / "sitecustomize.py").write_text(BARE)
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def started(tmp_path, env, *words):
    """`gpu.py`, started from another folder than the checkout's."""
    return subprocess.run(
        [sys.executable, ROOT / "bench/gpu/gpu.py", *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_starts_on_a_bare_machine(tmp_path, bare):
    done = started(tmp_path, bare, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: gpu.py")


def test_a_bare_machine_is_told_what_to_carry(tmp_path, bare):
    """In a file, which is there before anything is imported."""
    done = started(tmp_path, bare, "--out", str(tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert done.returncode == 1, done.stderr
    assert found["missing"].startswith(
        "nnaccel needs array-api-compat: python -m pip install array-api-compat; where there is no"
    )
    assert done.stdout == f"nothing can run: {found['missing']}\n"
    assert found["phases"] == {}
    assert found["missing"] in (tmp_path / "out" / "gpu.md").read_text()


def test_children_find_the_checkout(tmp_path):
    """From any folder, installed or not."""
    env = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    done = started(tmp_path, env, "--out", str(tmp_path), "--rehearse", "--phases", "machine")
    assert done.returncode == 0, done.stdout + done.stderr
    machine = json.loads((tmp_path / "gpu.json").read_text())["phases"]["machine"]
    assert "cpu" in machine["results"]["devices"]


def test_contestants_are_named_without_importing_them():
    assert tuple(GPU_CONTESTANTS) == schedule.CONTESTANTS


def test_without_a_gpu_it_says_so_and_looks_for_a_compiler(tmp_path):
    """Which it does not find here: tests/kernels/cuda/test_cuda.py compiles all kernels, once."""
    text, found = run_gpu(tmp_path, PATH=str(tmp_path))
    assert text.startswith("no GPU: device 'cuda' needs ")
    assert found["missing"] in text.splitlines()[0]
    assert list(found["phases"]) == ["sources"]
    assert found["phases"]["sources"]["problem"] == ""
    assert found["phases"]["sources"]["results"] == {"nvcc": {"note": "nvcc is not on the PATH"}}
    assert found["missing"] in (tmp_path / "gpu.md").read_text()


def test_the_whole_run_is_rehearsed_on_the_cpu(tmp_path):
    """But for the phase "sources", as above."""
    phases = ("machine", "tests", "launches", "parity", "fit", "throughput", "peers")
    words = ["--precisions", "ieee", "--contestants", "nnaccel", "--phases", *phases]
    text, found = run_gpu(tmp_path, "--rehearse", "--rounds", "1", *words)
    problems = {name: entry["problem"] for name, entry in found["phases"].items()}
    assert problems == dict.fromkeys(phases, "")
    fits = found["phases"]["fit"]["results"]
    assert list(fits) == ["cpu, first", "cpu, ieee", "cpu"]
    assert all(result["accuracy"] >= 0.9 for result in fits.values())
    assert found["phases"]["parity"]["results"]["digits float32"]["largest_difference"] == 0.0
    peers = found["phases"]["peers"]["results"]
    assert len(peers) == 2
    for name, result in peers.items():
        ours = result["contestants"]["nnaccel"]
        assert len(ours["times"]) == 1, name
    assert text.strip() == (tmp_path / "gpu.md").read_text().strip()


def test_the_first_minutes_are_rehearsed_on_the_cpu(tmp_path):
    text, found = run_gpu(tmp_path, "--rehearse", "--first")
    phases = found["phases"]
    assert list(phases) == [
        "kernels", "runs", "steps", "tests", "fusions", "products", "profile",
    ]  # fmt: skip
    assert {name: entry["problem"] for name, entry in phases.items()} == dict.fromkeys(phases, "")
    differences = [x["largest_difference"] for x in phases["runs"]["results"].values()]
    assert len(differences) == 17
    assert max(differences[:12]) < 1e-5
    assert "of 128 steps" in phases["steps"]["results"]["20-40-36-10x32 bf16 without graphs"]
    assert "tanh" in text
    ways = phases["fusions"]["results"]
    assert len(ways) == 2 * len(both_ways.NAMES)
    assert "RELU_IN_PRODUCT" in both_ways.NAMES
    for name in both_ways.NAMES:
        assert max(ways[f"{name} float32"][way] for way in ("off", "on")) < 1e-5
        times = ways[f"{name} 20-16-10x16 float32"]
        np.testing.assert_allclose(times["ratio"], times["on_us"] / times["off_us"], atol=0.01)


def test_without_a_kernel_that_compiles_nothing_else_begins(tmp_path, monkeypatch):
    def take(name, found, args, seconds):
        result = {"compiled": args.good, "problem": "1 do not compile; adam<float>: no"}
        found["phases"][name] = schedule.ended(result["problem"]) | {"results": {"kernels": result}}

    monkeypatch.setattr(schedule, "take", take)
    monkeypatch.setattr(schedule, "write", lambda *_: None)
    for good, end in ((0, "not begun: no kernel compiles"), (1, "1 do not compile; adam<float>")):
        found = {"phases": {}}
        schedule.take_all(["kernels", "runs"], found, Namespace(out=tmp_path, good=good), 100.0)
        assert found["phases"]["runs"]["problem"].startswith(end)


def test_kernels_are_compiled_as_for_a_run(monkeypatch):
    """Their resources are those of the loaded module; what does not compile is named."""
    modules = cuda_on_host.modules_on_host()

    def kernel(name, *types):
        if name == "adam":
            raise RuntimeError("adam.cuh(3): error")
        local = 48 if name == "small_epoch" else 0
        return Namespace(num_regs=40, local_size_bytes=local, shared_size_bytes=8, types=types)

    monkeypatch.setattr(modules.launch, "kernel", kernel)
    monkeypatch.setitem(sys.modules, "nnaccel.kernels.cuda.launch", modules.launch)
    monkeypatch.setattr(first_minutes, "select", lambda _: select("cpu"))
    found = first_minutes.compiled(["adam<float>", "clip<double>", "small_epoch<float, 4>"], 2)
    small = {"small_epoch<float, 4>": {"registers": 40, "local": 48, "shared": 8}}
    assert found == {
        "compiled": 2,
        "most_registers": 40,
        "with_local_memory": small,
        "small_epoch": small,
        "failed": {"adam<float>": "adam.cuh(3): error"},
        "problem": "1 do not compile; adam<float>: adam.cuh(3): error",
    }


def test_a_question_that_fails_leaves_the_others(caplog):
    def ask(answer):
        logging.getLogger("nnaccel").debug("captured 8 training steps in a CUDA graph")
        logging.getLogger("nnaccel").debug("products stay with CuPy")
        return {"error": 1 / answer}

    caplog.set_level(logging.DEBUG)
    (name, good), (_, bad) = (first_minutes.answered("one", ask, x) for x in (2, 0))
    assert name == "one"
    assert (good["error"], good["graphs"], good["said"]) == (0.5, 1, ["products stay with CuPy"])
    assert bad["problem"] == "one: ZeroDivisionError: division by zero"


@pytest.mark.skipif(not cuda_on_host.COMPILER, reason=cuda_on_host.NO_COMPILER)
def test_algorithms_are_timed_on_the_stand_in(monkeypatch):
    """Of the host's library four are suggested; the one that sums in the output is asked for its
    bits, which differ."""
    modules = cuda_on_host.modules_on_host()
    for name in ("algorithm_choice", "workspace"):
        monkeypatch.setitem(sys.modules, f"nnaccel.kernels.cuda.{name}", getattr(modules, name))
    monkeypatch.setitem(sys.modules, "cupy", modules.cupy)
    monkeypatch.setattr(step_details, "select", lambda _: select("cpu"))
    monkeypatch.setattr(step_details, "address", lambda x: x.ctypes.data)
    monkeypatch.setattr(step_details, "to_host", np.array)
    found = step_details.algorithms("float32", 16, 24, 8)
    assert found["error"] < 1e-6
    rows = found["algorithms"]
    assert [row["us"] for row in rows] == [4e3, 2e3, 3e3, 1e3]
    assert [row["taken"] for row in rows] == [True, False, False, False]
    assert [row.get("same_bits") for row in rows] == [None, None, None, False]


def test_time_is_that_of_each_kernel():
    events = 16 * [{"cat": "kernel", "name": "gemm", "dur": 2.0}, {"cat": "cpu_op", "name": "x"}]
    events += 8 * [{"cat": "kernel", "name": "adam", "dur": 6.0}]
    found = step_details.by_kernel(events)
    assert found == {"us_a_step": 5.0, "kernels": [["adam", 0.5, 3.0], ["gemm", 1.0, 2.0]]}


def test_peers_are_rehearsed_on_the_cpu(tmp_path):
    pytest.importorskip("torch")
    words = ["--phases", "peers", "--precisions", "ieee", "--rounds", "1"]
    words += ["--contestants", "nnaccel", "torch graphs"]
    _, found = run_gpu(tmp_path, "--rehearse", *words)
    results = found["phases"]["peers"]["results"]
    assert len(results) == 2
    for result in results.values():
        assert [len(entry["times"]) for entry in result["contestants"].values()] == [1, 1]


def test_a_phase_that_is_late_or_fails_leaves_what_it_has(tmp_path, monkeypatch):
    fake = tmp_path / "fake.py"
    fake.write_text(
        "import json, sys, time\nprint(json.dumps(['first', {'note': 'done'}]), flush=True)\n"
        "if sys.argv[1] == 'late':\n    time.sleep(3600)\n"
        "if sys.argv[1] == 'fails':\n    sys.exit('it broke')\n"
        "print(json.dumps(['second', {'problem': 'is wrong'}]))\n"
    )
    monkeypatch.setattr(schedule, "SCRIPT", fake)
    args = Namespace(out=tmp_path / "out")
    wait = schedule.status_of

    def status_of(process, seconds):
        """The end of the process, or of the time of the late one, once it has a result."""
        if seconds != 1.2:
            return wait(process, seconds)
        while not found["phases"]["machine"]["results"]:
            time.sleep(0.01)
        return wait(process, 0.0)

    monkeypatch.setattr(schedule, "status_of", status_of)
    ends = {"late": "ended after 1 s", "fails": "status 1: it broke", "finds": "is wrong"}
    for word, end in ends.items():
        monkeypatch.setattr(sys, "argv", ["gpu.py", word])
        found = {"rehearsal": True, "date": "2030-01-02", "command": "", "missing": ""}
        found["phases"] = {}
        schedule.take("machine", found, args, 1.2 if word == "late" else math.inf)
        entry = json.loads((args.out / "gpu.json").read_text())["phases"]["machine"]
        assert entry["results"]["first"] == {"note": "done"}
        assert end in entry["problem"]
    schedule.take("machine", found, args, 0.0)
    assert "no time was left" in found["phases"]["machine"]["problem"]


def test_only_a_gpu_is_in_a_hurry(tmp_path, monkeypatch):
    """Where there is none to give back, a busy machine may take as long as it needs."""
    limits = {}
    monkeypatch.setattr(
        schedule, "take", lambda name, found, args, seconds: limits.update({name: seconds})
    )
    monkeypatch.setattr(schedule.report, "markdown_of", lambda found: "")
    for words, missing in ((), "no driver"), (["--rehearse"], ""), ((), ""):
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), *words])
        monkeypatch.setattr(schedule, "missing_gpu", lambda missing=missing: missing)
        limits.clear()
        schedule.main(None)
        if words or missing:
            assert set(limits.values()) == {math.inf}
            assert list(limits) == (["sources"] if missing else list(schedule.REST))
        else:
            assert all(limits[name] <= schedule.PHASES[name].seconds for name in schedule.REST)


def test_the_page_of_a_gpu_run():
    times = {"nnaccel": [2.0, 2.0], "torch graphs": [4.0, 5.0]}
    contestants = {name: {"times": t, "first": 0.5} for name, t in times.items()}
    peers = {
        "ieee 2-4-2x16": {"gflop": 20.0, "contestants": contestants},
        "bf16 2-4-2x16": {"note": "left out: no time was left"},
    }
    waiting = {"held": 0.5, "host": 0.004, "total": 0.6, "steps": 8, "waits": False}
    calls = {"step": {"kernels": 45.0, "launches": 45.0, "kernel gemm": 3.0}, "epoch": {"waits": 1}}
    rates = {"product cupy ieee": {"tflops": {"4096": 40.0, "8192": 50.0}, "error": 3e-7}}
    step = {"step_ms": 1.0, "products_ms": 0.5, "gflops": 10_000.0, "samples_per_second": 1e6}
    results = {
        "launches": {"waiting 2-4-2x16": waiting, "calls 2-4-2x16": calls},
        "throughput": rates | {"step cuda:0 2-4-2x16": step | {"share": 0.5}},
        "peers": peers,
    }
    phases = {n: {"seconds": 1.0, "problem": "", "results": r} for n, r in results.items()}
    phases["tests"] = {"seconds": 9.0, "problem": "ended after 9 s: its time was up", "results": {}}
    text = report.markdown_of(
        {"rehearsal": False, "date": "2030-01-02", "command": "x", "missing": "", "phases": phases}
    )
    assert "| tests | 9 | ended after 9 s: its time was up |" in text
    assert "| 2-4-2x16 | 500 | 0.0040 | 0.50 | does not wait |" in text
    assert "| 2-4-2x16 | 45 | 45 | 0 | 0 | 0 | 1 |" in text
    assert "| cuda:0 2-4-2x16 | 1 | 0.5 | 10 | 1e+06 | 0.50 | 0.200 |" in text
    assert "| torch graphs | 4 | 4.5 | 0.5 | 5 | 0.100 | 2.25 (2.00 to 2.50) |" in text
    assert "left out: no time was left" in text
