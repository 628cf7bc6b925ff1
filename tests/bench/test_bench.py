"""The arithmetic of the benchmarks: ratios, equal losses, exponents, serial parts, comparisons."""

import contextlib
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from nnaccel.maths.precision import PRECISIONS

BENCH = Path(__file__).parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)


@pytest.fixture(scope="module")
def bench():
    """The modules of bench/, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        names = [path.stem for path in BENCH.glob("*.py") if not path.stem.startswith("test_")]
        before = set(sys.modules)
        wanted = {"fits", "accuracy", "conftest"}  # which need more than what they are asked here
        yield {name: importlib.import_module(name) for name in names if name not in wanted}
        for name in {*names} - before:
            sys.modules.pop(name, None)


def test_ratios_are_quartiles_of_the_rounds(bench):
    ratios = bench["measures"].ratios
    assert ratios([2.0, 4.0, 6.0, 8.0, 10.0], [2.0] * 5) == (1.5, 3.0, 4.5)
    assert ratios([3.0, 1.0], [1.0, 1.0]) == (1.0, 2.0, 3.0)
    # Within a round: a machine that is twice as slow in one of them changes nothing.
    assert ratios([2.0, 4.0, 2.0, 2.0], [1.0, 2.0, 1.0, 1.0]) == (2.0, 2.0, 2.0)


def test_who_comes_to_another_loss_is_marked(bench):
    found = {
        "a": {"loss": 1.0},
        "b": {"loss": 1.01},
        "wrong": {"loss": 1.1},
        "diverged": {"loss": math.nan},
        "floor": {"loss": 7.0},
        "absent": {"problem": "not installed"},
    }
    bench["measures"].judge(found, "loss", 0.02, leave=["floor"])
    assert "problem" not in found["a"] | found["b"] | found["floor"]
    assert found["wrong"]["problem"] == "comes to loss 1.1, the others to 1.01"
    assert "nan" in found["diverged"]["problem"]
    assert found["absent"] == {"problem": "not installed"}


def test_the_exponent_of_a_power_law(bench):
    sizes = [64, 128, 256, 1024]
    costs = [3.0 * n**1.5 for n in sizes]
    assert bench["measures"].exponent(sizes, costs) == pytest.approx(1.5)


def test_the_serial_part_by_amdahls_law(bench):
    # Products 80 / n, a serial part of 6, a parallel one of 14 / n.
    left = bench["measures"].rest((100.0, 40 + 6 + 7), (80.0, 40.0), 2)
    assert left.share_1 == pytest.approx(0.2)
    assert left.share_n == pytest.approx(13 / 53)
    assert left.serial == pytest.approx(6.0)
    assert left.serial_share == pytest.approx(6 / 53)
    # Noise: a rest that more than halves has no serial part, one that grows is all serial.
    assert bench["measures"].rest((100.0, 44.0), (80.0, 40.0), 2).serial == 0.0
    assert bench["measures"].rest((100.0, 65.0), (80.0, 40.0), 2).serial == 25.0
    # 94 / n of the first: 6 is a tenth of the step at 94 / n = 54, which is n = 1.74.
    assert bench["serial"].threads_to(0.1, 53.0, 6.0, 2) == "2 threads"
    assert bench["serial"].threads_to(0.1, 53.0, 0.0, 2) == "never"


def test_differences_between_precisions_are_those_of_pairs(bench):
    difference = bench["low_precision"].difference
    assert difference([3.0, 5.0, 7.0], [1.0, 3.0, 5.0]) == (2.0, 0.0)
    mean, error = difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert (mean, error) == (2.0, pytest.approx(1.0 / 3**0.5))
    about = {"processor": "a chip", "threads": 2, "versions": {"numpy": "2"}}
    tested = {"accuracy": [0.9, 0.8], "log loss": [0.25, 0.35]}
    other = {"accuracy": [0.91, 0.82], "log loss": [0.25, 0.33]}
    found = {
        "machine": about, "date": "2026-11-24T00", "command": "python bench/low_precision.py",
        "runs": {"flowers": {"settings": {}, "float32": tested, "bf16": other}},
    }  # fmt: skip
    lines = bench["low_precision"].table(found).splitlines()
    assert "| float32 | 0.8500 ± 0.0707 |  | 0.3000 ± 0.0707 |  |" in lines
    assert (
        "| bf16 | 0.8650 ± 0.0636 | +0.0150 ± 0.0050 | 0.2900 ± 0.0566 | -0.0100 ± 0.0100 |"
        in lines
    )


def test_turns_are_taken_round_by_round(bench, monkeypatch):
    monkeypatch.setattr(bench["rounds"], "calm", lambda patience: None)
    order = []
    turns = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    found = {"a": {}, "b": {"problem": "no"}, "c": {}}
    bench["rounds"].take_turns(found, turns, Namespace(rounds=2, patience=0.0))
    assert order == ["a", "c", "c", "a"]
    assert found == {"a": {"times": [1.0, 1.0]}, "b": {"problem": "no"}, "c": {"times": [1.0, 1.0]}}


def test_a_turn_waits_for_other_programs_but_not_for_ever(bench, monkeypatch):
    rounds = bench["rounds"]
    monkeypatch.setattr(rounds, "PAUSE", 0.0)
    ticks = iter([(0, 0), (10, 100), (100, 200), (1000, 1100)])  # idle: 10 %, 90 %
    monkeypatch.setattr(rounds, "processor_time", lambda: next(ticks))
    rounds.calm(60.0)
    assert next(ticks) == (1000, 1100)
    monkeypatch.setattr(rounds, "processor_time", iter([(0, i) for i in range(10**6)]).__next__)
    rounds.calm(0.01)
    monkeypatch.undo()
    idle, total = rounds.processor_time()
    assert 0 <= idle <= total


def results(bench, **times):
    contestants = {name: {"times": values} for name, values in times.items()}
    contestants["jax scan"] = {"problem": "not installed"}
    shape = bench["shapes"].SHAPES[0]
    return {
        "command": "python bench/peers.py",
        "date": "2030-01-02T03:04:05+00:00",
        "machine": {"processor": "two cores", "threads": 2, "versions": {"numpy": "2"}},
        "problems": {shape.name: {"gflop": 4e-3, "batch": 400, "contestants": contestants}},
    }


def test_the_table_of_the_peers(bench):
    found = results(bench, products=[1.0, 2.0], nnaccel=[2.0, 2.5], torch=[4.0, 5.0])
    lines = bench["peers"].table(found).splitlines()
    assert lines[0] == "two cores, 2 threads, 2030-01-02; numpy 2."
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| | best ms | median ms | GFLOP/s | share of products | to nnaccel |"
    assert rows[3] == "| nnaccel | 2 | 2.25 | 2 | 0.50 |  |"
    assert rows[4] == "| torch | 4 | 4.5 | 1 | 0.25 | 2.00 (2.00 to 2.00) |"
    assert rows[5] == "| jax scan | not installed |  |  |  |  |"
    assert {row.count("|") for row in rows} == {7}


def test_the_command_is_without_folders(bench, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/a/bench/fits.py", "--data", "/home/me/my data.npz"])
    about = bench["report"].about(2)
    assert about["command"] == "python bench/fits.py --data 'my data.npz'"
    assert about["machine"]["threads"] == 2


def test_compare_fails_where_a_share_has_fallen(bench, tmp_path, monkeypatch, capsys):
    old, new, suite = (tmp_path / f"{name}.json" for name in ("old", "new", "suite"))
    old.write_text(json.dumps(results(bench, products=[1.0], nnaccel=[2.0, 3.0])))
    # A slower machine is no worse, since the products are slower as well; slower code is.
    new.write_text(json.dumps(results(bench, products=[2.0], nnaccel=[4.0], torch=[5.0])))
    name = f"{bench['shapes'].SHAPES[0].name} nnaccel"
    assert bench["compare"].shares(old) == {name: 0.5}

    def status(*files):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, files)])
        return bench["compare"].main()

    assert status(old, new) == 0
    assert "torch" in capsys.readouterr().out
    new.write_text(json.dumps(results(bench, products=[1.0], nnaccel=[2.5])))
    assert status(old, new) == 1
    assert "slower" in capsys.readouterr().out
    entry = {"fullname": "bench/test_steps.py::test_step", "extra_info": {"share_of_products": 0.7}}
    suite.write_text(json.dumps({"benchmarks": [entry, {"fullname": "x", "extra_info": {}}]}))
    assert bench["compare"].shares(suite) == {entry["fullname"]: 0.7}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_script_whose_reader_has_gone_ends_quietly(bench, tmp_path, unbuffered):
    file = tmp_path / "found.json"
    file.write_text(json.dumps(results(bench, products=[1.0], nnaccel=[2.0])))
    script = subprocess.Popen(
        [sys.executable, BENCH / "compare.py", file, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    script.stdout.close()
    _, error = script.communicate()
    assert (script.returncode, error) == (1, b"")


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.stem)
def test_all_scripts_end_so(path):
    text = path.read_text()
    assert ("__main__" in text) == text.endswith('if __name__ == "__main__":\n    run(main)\n')


def test_scripts_end_with_the_status_of_their_function(bench):
    def fails():
        raise ValueError("as it was")

    for status in (None, 0, 1):
        with pytest.raises(SystemExit) as caught:
            bench["script"].run(lambda status=status: status)
        assert caught.value.code == status
    with pytest.raises(ValueError, match="as it was"):
        bench["script"].run(fails)


def test_a_worker_that_does_not_answer_is_ended(bench, monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\nfor line in sys.stdin:\n    a, b = map(int, line.split())\n"
        "    if a == 0:\n        sys.stderr.write('x' * 10**6 + '\\nlast words\\n'); sys.exit(1)\n"
        "    if a == 1:\n        sys.stdin.read()\n"
        "    print(a, b, flush=True)\n"
    )
    monkeypatch.setattr(sys, "argv", [str(script)])
    workers = [bench["rounds"].Worker([], 1) for _ in range(2)]
    assert workers[0].ask(2, 3, limit=60.0) == [2.0, 3.0]
    with pytest.raises(RuntimeError, match="^last words$"):
        workers[0].ask(0, 0)
    with pytest.raises(RuntimeError, match="no answer in 0 seconds"):
        workers[1].ask(1, 0, limit=0.1)
    for worker in workers:
        worker.close()


def test_a_worker_that_fails_is_heard_out(bench, monkeypatch, tmp_path):
    """The end of its answers comes before its last words."""
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(BENCH)!r})\nimport rounds\n"
        "def slow(*error):\n    time.sleep(0.5)\n    sys.__excepthook__(*error)\n"
        "sys.excepthook = slow\n"
        "def work(a):\n    raise ValueError('last words')\n"
        "rounds.answer(work)\n"
    )
    monkeypatch.setattr(sys, "argv", [str(script)])
    worker = bench["rounds"].Worker([], 1)
    with pytest.raises(RuntimeError, match="^ValueError: last words$"):
        worker.ask(1)
    worker.close()


def test_what_a_worker_prints_is_no_answer(bench, monkeypatch, tmp_path, capsys):
    """Nor do the processes that it starts hold its answers open."""
    script = tmp_path / "worker.py"
    script.write_text(
        f"import subprocess, sys\nsys.path.insert(0, {str(BENCH)!r})\nimport rounds\n"
        "def work(a):\n    print('a library prints', flush=True)\n"
        "    print('DEBUG:nnaccel.kernels.backend:it falls back', file=sys.stderr, flush=True)\n"
        "    subprocess.Popen(['sleep', '60'], start_new_session=True)\n    return (a + 1,)\n"
        "rounds.answer(work)\n"
    )
    monkeypatch.setattr(sys, "argv", [str(script)])
    worker = bench["rounds"].Worker([], 1)
    assert worker.ask(2, limit=60.0) == [3.0]
    started = time.monotonic()
    worker.close()
    assert time.monotonic() - started < 30
    assert capsys.readouterr().err == "DEBUG:nnaccel.kernels.backend:it falls back\n"


def test_precisions_share_the_time(bench, monkeypatch):
    """And a shape that would take longer than what is left is left out."""
    gpu_peers, clock, ran = bench["gpu_peers"], [0.0], []

    class Race:
        def __init__(self, precision, folder, args):
            self.precision = precision

        def run(self, number, shape):
            ran.append((self.precision, number))
            clock[0] += 40.0
            return {"contestants": {}}

        def close(self):
            pass

    monkeypatch.setattr(gpu_peers, "Race", Race)
    monkeypatch.setattr(gpu_peers.time, "monotonic", lambda: clock[0])
    args = Namespace(rehearse=True, shapes=None, precisions=["ieee", "tf32", "bf16"], stop=160.0)
    results = dict(gpu_peers.peers(args))
    assert ran == [("ieee", 1), ("ieee", 0), ("tf32", 1), ("bf16", 1)]
    assert [name for name, r in results.items() if "note" in r] == [
        "tf32 2-4-1x16",
        "bf16 2-4-1x16",
    ]


def test_every_precision_is_told_to_each_library(bench):
    precisions = bench["precisions"].PRECISIONS
    assert list(precisions) == ["ieee", "tf32", "bf16"]
    names = {how.nnaccel.get("precision", "float32") for how in precisions.values()}
    assert names == {*PRECISIONS}
    errors = [p.error for p in precisions.values()]
    assert errors == sorted(errors)
    for precision in precisions.values():
        assert precision.torch in ("highest", "high")
        assert precision.jax in ("highest", "tensorfloat32")
    contestants = bench["contestants"]
    problem = bench["shapes"].problem(bench["shapes"].TINY[0])
    losses = {contestants.GPU_CONTESTANTS["nnaccel"](problem, "cpu", n)(1) for n in precisions}
    assert len(losses) == len(precisions)
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize(
    ("number", "loss"), [(0, "binary_cross_entropy"), (1, "softmax_cross_entropy")]
)
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_contestants_learn_the_same_in_every_precision(bench, library, number, loss):
    """But for torch.compile, which takes seconds."""
    pytest.importorskip(library)
    contestants, shapes = bench["contestants"], bench["shapes"]
    problem = shapes.problem(shapes.TINY[number])
    assert problem.shape.loss == loss
    problem = problem._replace(order=problem.order[:128])
    expected = contestants.GPU_CONTESTANTS["nnaccel"](problem, "cpu", "ieee")(3)
    names = {"torch": ("torch eager", "torch graphs"), "jax": ("jax jit", "jax scan")}[library]
    with settings_kept(library):
        for precision, how in bench["precisions"].PRECISIONS.items():
            for name in names:
                run = contestants.GPU_CONTESTANTS[name](problem, "cpu", precision)
                assert run(3) == pytest.approx(expected, rel=how.tolerance)


@contextlib.contextmanager
def settings_kept(library):
    """The contestants set the precision of a whole process, which is theirs as a rule."""
    if library == "torch":
        import torch

        before = torch.get_float32_matmul_precision()
        yield
        torch.set_float32_matmul_precision(before)
    else:
        import jax

        names = ("jax_default_matmul_precision", "jax_enable_x64")
        before = {name: getattr(jax.config, name) for name in names}
        jax.config.update("jax_enable_x64", False)
        yield
        for name, value in before.items():
            jax.config.update(name, value)


def test_the_assembler_is_read(bench, tmp_path):
    report = """\
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
    kernels = bench["gpu_phases"].kernels_in(report)
    assert kernels == {
        "_Z3addPf": {"stack": 0, "spill_stores": 0, "spill_loads": 0, "registers": 8},
        "large": {"stack": 160, "spill_stores": 24, "spill_loads": 16, "registers": 255},
    }
    text = bench["gpu_report"].sources({"kernels/cuda": {"kernels": kernels}}, {})
    assert "| kernels/cuda | 2 | 255 | 1 |" in text
    assert "- `large` spills 40 bytes" in text


def test_cuda_sources_are_compiled(bench, tmp_path):
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not on the PATH")
    compiled, source = bench["gpu_phases"].compiled, tmp_path / "one.cu"
    source.write_text("template <class T> __global__ void twice(T* x) { *x *= 2; }\n")
    assert compiled(compiler, source, "sm_90")["kernels"] == {}
    kernels = compiled(compiler, source, "sm_90", ["twice<float>", "twice<double>"])["kernels"]
    assert len(kernels) == 2
    assert "error" in compiled(compiler, source, "sm_90", ["thrice<float>"])["problem"]
    source.write_text("int x = ;\n")
    assert compiled(compiler, source, "sm_90")["problem"].startswith("one.cu(1): error")
    hold = tmp_path / "hold.cu"
    hold.write_text(bench["launches"].HOLD)
    assert list(compiled(compiler, hold, "sm_90")["kernels"]) == ["hold"]


def test_calls_of_a_step_and_of_an_epoch(bench):
    def trace(steps):
        kernels = [{"cat": "kernel", "name": "gemm"}, {"cat": "kernel", "name": "gemm"}]
        calls = {"cuda_driver": "cuLaunchKernel", "cuda_runtime": "cudaGraphLaunch"}
        step = kernels + [{"cat": kind, "name": name} for kind, name in calls.items()]
        step.append({"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)"})
        end = [{"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)"}]
        end += [{"cat": "cuda_runtime", "name": "cudaStreamSynchronize"}, {"cat": "cpu_op"}]
        return steps * step + end

    launches = bench["launches"]
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


def test_losses_are_compared_epoch_by_epoch(bench):
    a = [{"loss": 2.0, "validation_loss": 1.0, "metric": 5.0}, {"loss": math.nan}]
    b = [{"loss": 1.0, "validation_loss": 1.1, "metric": 9.0}, {"loss": 1.0}]
    assert bench["gpu_phases"].differences_of(a, b) == [1.0, math.inf]


def run_gpu(folder, *words, status=0):
    """What `gpu.py` prints, and what it leaves."""
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), "--out", str(folder), *words],
        cwd=BENCH.parent,
        env=os.environ | {"PYTHONPATH": str(BENCH.parent), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "gpu.json").read_text())


def test_without_a_gpu_it_says_so_and_compiles(tmp_path):
    text, found = run_gpu(tmp_path)
    assert text.startswith("no GPU: device 'cuda' needs ")
    assert found["missing"] in text.splitlines()[0]
    assert list(found["phases"]) == ["sources"]
    assert found["phases"]["sources"]["problem"] == ""
    # Compiled as CuPy does it, they spill nothing (see tests/kernels/cuda/test_cuda.py).
    for source in found["phases"]["sources"]["results"].values():
        assert all(k["spill_stores"] == 0 for k in source.get("kernels", {}).values())
    assert found["missing"] in (tmp_path / "gpu.md").read_text()


def test_the_whole_run_is_rehearsed_on_the_cpu(tmp_path):
    words = ["--precisions", "ieee", "bf16", "--contestants", "nnaccel"]
    text, found = run_gpu(tmp_path, "--rehearse", "--rounds", "1", *words)
    assert {name: entry["problem"] for name, entry in found["phases"].items()} == dict.fromkeys(
        ("machine", "sources", "tests", "launches", "parity", "fit", "throughput", "peers"), ""
    )
    fits = found["phases"]["fit"]["results"]
    assert list(fits) == ["cpu, first", "cpu, ieee", "cpu, bf16", "cpu"]
    assert all(result["accuracy"] >= 0.9 for result in fits.values())
    assert found["phases"]["parity"]["results"]["digits float32"]["largest_difference"] == 0.0
    peers = found["phases"]["peers"]["results"]
    assert len(peers) == 4
    for name, result in peers.items():
        ours = result["contestants"]["nnaccel"]
        assert len(ours["times"]) == 1, name
    assert text.strip() == (tmp_path / "gpu.md").read_text().strip()


def test_peers_are_rehearsed_on_the_cpu(tmp_path):
    pytest.importorskip("torch")
    words = ["--phases", "peers", "--precisions", "ieee", "--rounds", "1"]
    words += ["--contestants", "nnaccel", "torch graphs"]
    _, found = run_gpu(tmp_path, "--rehearse", *words)
    results = found["phases"]["peers"]["results"]
    assert len(results) == 2
    for result in results.values():
        assert [len(entry["times"]) for entry in result["contestants"].values()] == [1, 1]


def test_a_phase_that_is_late_or_fails_leaves_what_it_has(bench, tmp_path, monkeypatch):
    gpu, fake = bench["gpu"], tmp_path / "fake.py"
    fake.write_text(
        "import json, sys, time\nprint(json.dumps(['first', {'note': 'done'}]), flush=True)\n"
        "if sys.argv[1] == 'late':\n    time.sleep(60)\n"
        "if sys.argv[1] == 'fails':\n    sys.exit('it broke')\n"
        "print(json.dumps(['second', {'problem': 'is wrong'}]))\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(fake))
    args = Namespace(out=tmp_path / "out")
    ends = {"late": "ended after 1 s", "fails": "status 1: it broke", "finds": "is wrong"}
    for word, problem in ends.items():
        monkeypatch.setattr(sys, "argv", ["gpu.py", word])
        found = {
            "rehearsal": True,
            "date": "2030-01-02",
            "command": "",
            "missing": "",
            "phases": {},
        }
        gpu.take("machine", found, args, 1.2 if word == "late" else 30.0)
        entry = json.loads((args.out / "gpu.json").read_text())["phases"]["machine"]
        assert entry["results"]["first"] == {"note": "done"}
        assert problem in entry["problem"]
    gpu.take("machine", found, args, 0.0)
    assert "no time was left" in found["phases"]["machine"]["problem"]


def test_the_page_of_a_gpu_run(bench):
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
    text = bench["gpu_report"].markdown_of(
        {"rehearsal": False, "date": "2030-01-02", "command": "x", "missing": "", "phases": phases}
    )
    assert "| tests | 9 | ended after 9 s: its time was up |" in text
    assert "| 2-4-2x16 | 500 | 0.0040 | 0.50 | does not wait |" in text
    assert "| 2-4-2x16 | 45 | 45 | 0 | 0 | 0 | 1 |" in text
    assert "| cuda:0 2-4-2x16 | 1 | 0.5 | 10 | 1e+06 | 0.50 | 0.200 |" in text
    assert "| torch graphs | 4 | 4.5 | 0.5 | 5 | 0.100 | 2.25 (2.00 to 2.50) |" in text
    assert "left out: no time was left" in text
