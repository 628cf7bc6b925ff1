"""The CUDA kernels of this folder as one source for the compiler.

CuPy keeps compiled kernels on the disk by their source, and does not look into the files that a
source includes. So these are inlined here, and a change in any of them compiles the kernels anew.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

INCLUDE = re.compile(r'#include "(\w+\.cuh)"')


@cache
def kernel_source() -> str:
    """All `.cuh` files, each once and after those that it includes.

    `#line` keeps their names and the numbers of their lines, so that an error of a compiler leads
    to the file.
    """
    return joined({path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.cuh"))})


def joined(files: dict[str, str]) -> str:
    """The texts of these files as one, with the files that they include in place of `#include`."""
    done: set[str] = set()

    def lines_of(name: str) -> Iterator[str]:
        if name in done:
            return
        done.add(name)
        yield f'#line 1 "{name}"'
        for number, line in enumerate(files[name].splitlines(), 1):
            if found := INCLUDE.fullmatch(line):
                yield from lines_of(found[1])
                yield f'#line {number + 1} "{name}"'
            else:
                yield "" if line == "#pragma once" else line

    return "\n".join(line for name in files for line in lines_of(name)) + "\n"
