"""The available results of `gpu.py` in Markdown."""

from collections.abc import Callable, Mapping
from typing import Any

from bench.shared.measures import Entry, best, markdown, median, ratio_to
from bench.shared.precisions import PRECISIONS

Found = Mapping[str, Any]


def markdown_of(found: Found) -> str:
    """The whole page: the problems first, then each phase."""
    title = "# A rehearsal on the CPU" if found["rehearsal"] else "# On the GPU"
    parts = [f"{title}, {found['date'][:10]}\n\nCommand: `{found['command']}`\n"]
    if found["missing"]:
        parts.append(f"No GPU: {found['missing']}\n")
    rows = [
        (name, f"{entry['seconds']:.0f}", entry["problem"] or "complete")
        for name, entry in found["phases"].items()
    ]
    parts.append(table(("phase", "seconds", "end"), rows))
    for name, entry in found["phases"].items():
        if entry["results"]:
            parts.append(f"## {name}\n\n{RENDERED[name](entry['results'], found)}")
    return "\n".join(parts)


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def remark(result: Any) -> str:
    """The reason why a result has no numbers; empty if it has numbers."""
    return result.get("problem") or result.get("note", "") if isinstance(result, dict) else ""


def answers(results: Found, found: Found) -> str:
    """A table of the answers, one row per question."""
    rows = []
    for name, result in results.items():
        facts = {key: value for key, value in result.items() if value and key != "problem"}
        words = [f"{key} {value}" for key, value in facts.items()]
        rows.append((name, "; ".join([*filter(None, [result.get("problem")]), *words])))
    return table(("", "found"), rows)


def machine(results: Found, found: Found) -> str:
    rows: list[tuple[str, Any]] = []
    for name, result in results.items():
        facts = result.items() if isinstance(result, dict) else [("", result)]
        for key, value in facts:
            if isinstance(value, dict):
                value = ", ".join(f"{k} {v}" for k, v in value.items())
            rows.append((f"{name} {key}".strip(), value))
    return table(("", ""), rows)


def sources(results: Found, found: Found) -> str:
    rows, spilling = [], []
    for file, result in results.items():
        kernels = result.get("kernels", {})
        most = max((numbers.get("registers", 0) for numbers in kernels.values()), default="")
        bad = {name: numbers for name, numbers in kernels.items() if spilled(numbers)}
        rows.append((file, remark(result) or len(kernels), most, len(bad) if kernels else ""))
        spilling += [f"- `{name}` spills {spilled(numbers)} bytes" for name, numbers in bad.items()]
    head = ("source", "kernels", "most registers", "kernels that spill")
    return "\n".join([table(head, rows), *spilling]) + "\n"


def spilled(numbers: Mapping[str, int]) -> int:
    return numbers.get("spill_stores", 0) + numbers.get("spill_loads", 0)


def tests(results: Found, found: Found) -> str:
    summary = results.get("pytest", {}).get("summary", "pytest has not come to its end")
    failures = [result["problem"] for name, result in results.items() if name != "pytest"]
    return "\n".join([f"{summary}\n", *(f"- `{failure}`" for failure in failures)]) + "\n"


def launches(results: Found, found: Found) -> str:
    waits, counts, names = [], [], []
    for name, result in results.items():
        kind, shape = name.split(" ", 1)
        if kind == "waiting":
            step = 1e6 * result["host"] / result["steps"]
            verdict = "**waits**" if result["waits"] else "does not wait"
            verdict = verdict if result["held"] else "a CPU is not held"
            row = (shape, f"{step:.0f}", f"{result['host']:.4f}", f"{result['held']:.2f}", verdict)
            waits.append(row)
        elif remark(result):
            counts.append((shape, remark(result), *[""] * 5))
        else:
            step, epoch = result["step"], result["epoch"]
            what = ("kernels", "launches", "graphs", "Memcpy DtoH", "waits")
            cells = [f"{step.get(key, 0):g}" for key in what]
            counts.append((shape, *cells, f"{epoch.get('waits', 0):g}"))
            kernels = {k.partition(" ")[2]: v for k, v in step.items() if k.startswith("kernel ")}
            listed = sorted(kernels.items(), key=lambda item: -item[1])
            names.append(f"\n{shape}, kernels a step:\n")
            names += [f"- {number:g} `{kernel}`" for kernel, number in listed]
    head = ("steps given out while the GPU is held", "host µs a step", "host s", "GPU held s", "")
    calls = ("a step", "kernels", "launches", "of graphs", "copies to the host", "waits")
    calls += ("waits an epoch",)
    return "\n".join([table(head, waits), table(calls, counts), *names]) + "\n"


def parity(results: Found, found: Found) -> str:
    rows = []
    for name, result in results.items():
        if remark(result):
            rows.append((name, remark(result), *[""] * 6))
            continue
        seconds, scores, there = result["seconds"], result["scores"], result["predictions"]
        times = [f"{seconds[key]:.1f}" for key in ("first", list(seconds)[-2], "cpu")]
        accuracy = " / ".join(f"{scores[key].get('accuracy', 0):.4f}" for key in ("device", "cpu"))
        curve = result["difference"]
        cells = [f"{x:.1e}" for x in (curve[0], result["largest_difference"])]
        cells.append(f"{there['largest_difference']:.1e} ({there['same_labels']:.2%} same labels)")
        rows.append((name, *times, accuracy, *cells))
    head = (
        *("from the command line", "GPU s, first", "GPU s, again", "CPU s", "accuracy GPU / CPU"),
        *("losses: relative difference, epoch 1", "largest", "predictions on CPU: difference"),
    )
    return table(head, rows)


def fit(results: Found, found: Found) -> str:
    rows = []
    for name, result in results.items():
        if remark(result):
            rows.append((name, remark(result), "", ""))
            continue
        cells = (f"{result['seconds']:.2f}", result["epochs"], f"{result['accuracy']:.4f}")
        rows.append((name, *cells))
    return table(("from arrays to a test accuracy", "seconds", "epochs", "accuracy"), rows)


def throughput(results: Found, found: Found) -> str:
    products, steps, parts = [], [], []
    peak = best_product(results, ("cupy",), "ieee")
    sizes: list[str] = []
    for name, result in results.items():
        kind, *words = name.split(" ")
        if kind == "product" and not remark(result):
            sizes = list(result["tflops"])
            rates = [f"{rate:.1f}" for rate in result["tflops"].values()]
            products.append((" ".join(words), *rates, f"{result['error']:.1e}"))
        elif kind == "product":
            products.append((" ".join(words), remark(result)))
        elif kind == "step" and remark(result):
            steps.append((" ".join(words), remark(result), *[""] * 5))
        elif kind == "step":
            share = f"{result['gflops'] / 1e3 / peak:.3f}" if peak and words[0] != "cpu" else ""
            cells = [f"{result[key]:.4g}" for key in ("step_ms", "products_ms")]
            cells += [f"{result['gflops'] / 1e3:.3g}", f"{result['samples_per_second']:.3g}"]
            steps.append((" ".join(words), *cells, f"{result['share']:.2f}", share))
        elif kind == "members":
            together, alone = result["together_ms"], result["one_by_one_ms"]
            parts.append(
                f"{result['networks']} networks of {result['shape']}: {together:.4g} ms a step "
                f"together, {alone:.4g} ms one by one, {alone / together:.1f} times as long.\n"
            )
    head = ("bare product, TFLOP/s", *(f"n = {n}" for n in sizes), "relative error")
    products = [(*row, *[""] * (len(head) - len(row))) for row in products]
    columns = ("step ms", "products ms", "TFLOP/s", "samples/s", "of its products", "of the best")
    return "\n".join([table(head, products), table(("step", *columns), steps), *parts])


def best_product(results: Found, libraries: tuple[str, ...], precision: str) -> float:
    """TFLOP/s of the best bare product in a precision; 0 without a result."""
    found = [results.get(f"product {library} {precision}", {}) for library in libraries]
    return max((rate for r in found for rate in r.get("tflops", {}).values()), default=0.0)


def peers(results: Found, found: Found) -> str:
    parts = ["Milliseconds a step. Ratios: time of the row over nnaccel's in the same round; above"]
    parts[0] += " 1, nnaccel is faster.\nFirst: seconds until the first epochs were done.\n"
    products = found["phases"].get("throughput", {}).get("results", {})
    for name, result in results.items():
        precision, shape = name.split(" ", 1)
        parts.append(f"### {shape}: {PRECISIONS[precision].meaning}\n")
        if remark(result):
            parts.append(remark(result) + "\n")
            continue
        peak = best_product(products, ("nnaccel", "cupy", "torch", "jax"), precision)
        parts.append(markdown(result["contestants"], columns_of(result, peak)))
    return "\n".join(parts)


def columns_of(result: Found, peak: float) -> dict[str, Callable[[Entry], str]]:
    def rate(entry: Entry) -> float:
        return result["gflop"] / min(entry["times"])  # GFLOP per millisecond equals TFLOP/s

    columns: dict[str, Callable[[Entry], str]] = {
        "best ms": best,
        "median ms": median,
        "first s": lambda entry: f"{entry['first']:.1f}",
        "TFLOP/s": lambda entry: f"{rate(entry):.3g}",
    }
    if peak:
        columns["of the best product"] = lambda entry: f"{rate(entry) / peak:.3f}"
    ours = result["contestants"].get("nnaccel", {})
    if ours.get("times"):
        columns["to nnaccel"] = ratio_to(ours)
    return columns


RENDERED: dict[str, Callable[[Found, Found], str]] = {
    **dict.fromkeys(("kernels", "runs", "steps", "fusions", "products", "profile"), answers),
    "machine": machine,
    "sources": sources,
    "tests": tests,
    "launches": launches,
    "parity": parity,
    "fit": fit,
    "throughput": throughput,
    "peers": peers,
}
