"""Print every requirement of some extras of nnaccel, each as the lowest version that it allows.

    python .ci/lowest.py test fast > constraints.txt

The tests pass with these versions, so the lower bounds in pyproject.toml hold.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def lowest(requirements: list[str]) -> Iterator[str]:
    """`name==version` of each `name>=version`, and those of the extras of the project itself."""
    for requirement in requirements:
        if own := re.fullmatch(r"nnaccel\[([\w,]+)\]", requirement):
            for extra in own[1].split(","):
                yield from lowest(PROJECT["optional-dependencies"][extra])
        elif bound := re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement):
            yield f"{bound[1]}=={bound[2]}"
        else:
            raise SystemExit(f"pyproject.toml: {requirement!r} is not of the form name>=version")


print(*lowest([*PROJECT["dependencies"], f"nnaccel[{','.join(sys.argv[1:])}]"]), sep="\n")
