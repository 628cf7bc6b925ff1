"""`python -m tests.fuzz tables 100000`, headers, bytes, and `... tables --only SEED`."""

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.headers import judge_bytes, judge_headers
from tests.fuzz.pool import run
from tests.fuzz.tables import judge_tables

SUBJECTS = {"tables": judge_tables, "headers": judge_headers, "bytes": judge_bytes}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("count", type=int, nargs="?", default=1000, help="how many mutants")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--only", type=int, help="the one mutant of this seed")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.only is not None:
        options.first, options.count, options.workers = options.only, 1, 1
    seeds = range(options.first, options.first + options.count)
    counts, faults, start = Counter(), 0, time.monotonic()
    for outcome in run(SUBJECTS[options.subject], seeds, options.workers):
        counts[outcome.kind] += 1
        if counts.total() % 10_000 == 0:
            print(f"{counts.total():,} of {len(seeds):,}", file=sys.stderr)
        faults += outcome.is_fault
        if outcome.is_fault or options.only is not None:
            print(f"seed {outcome.seed}: {outcome.kind}: {outcome.words}", flush=True)
    told = ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common())
    seconds = time.monotonic() - start
    print(f"{options.subject}: {len(seeds):,} mutants in {seconds:,.0f} s: {told}; {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
