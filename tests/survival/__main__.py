"""`python -m tests.survival 1000`: that many runs, each killed one to four times and resumed."""

import argparse
import sys
import time

from tests.survival.kills import survive


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=1000)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    options = parser.parse_args()
    start = time.monotonic()
    counts, faults = survive(options.runs, options.first)
    for fault in faults:
        print(fault)
    print(
        f"{counts['runs']:,} runs, {counts['kills']:,} kills, {counts['in_writes']:,} of them in "
        f"a write, in {time.monotonic() - start:,.0f} s: {len(faults)} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
