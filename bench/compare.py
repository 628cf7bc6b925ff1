"""Compares two result files by shares of the bare products measured in each.

    python bench/compare.py bench/results/old.json bench/results/new.json

Reads the files of `bench/peers/steps.py`, `bench/peers/fits.py`, and `python -m pytest bench/suites
--benchmark-json=FILE`.
A share of the products in the same run compares code, while a time also compares machines. Ends
with status 1 if a share has fallen by more than --tolerance.
"""

import argparse
import json
from pathlib import Path

from bench.shared.script import run


def shares(path: Path) -> dict[str, float]:
    """Name of a result -> the share of its bare products: their best time over its best time."""
    found = json.loads(path.read_text())
    if "benchmarks" in found:
        return {
            entry["fullname"]: entry["extra_info"]["share_of_products"]
            for entry in found["benchmarks"]
            if "share_of_products" in entry["extra_info"]
        }
    result = {}
    for problem, entry in found["problems"].items():
        best = {n: min(e["times"]) for n, e in entry["contestants"].items() if e.get("times")}
        if floor := best.pop("products", None):
            result |= {f"{problem} {name}": floor / time for name, time in best.items()}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1, help="relative; default 0.1")
    args = parser.parse_args()
    old, new = shares(args.old), shares(args.new)
    width, worse = max(map(len, [*old, *new, "share of the products"])), 0
    print(f"{'share of the products':{width}}    old    new  new/old")
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old or name not in new:
            print(f"{name:{width}}  only in the {'new' if name in new else 'old'}")
            continue
        ratio = new[name] / old[name]
        worse += ratio < 1 - args.tolerance
        mark = "  slower" if ratio < 1 - args.tolerance else ""
        print(f"{name:{width}} {old[name]:6.2f} {new[name]:6.2f} {ratio:8.2f}{mark}")
    return 1 if worse else 0


if __name__ == "__main__":
    run(main)
