"""The CUDA kernels of this folder as one source for the compiler.

CuPy caches compiled kernels on disk by their source text, and ignores the contents of included
files. So this module inlines the files, and a change in any file recompiles the kernels.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

INCLUDE = re.compile(r'#include "(\w+\.cuh)"')


@cache
def kernel_source() -> str:
    """All `.cuh` files as one text, each file once and after the files that it includes.

    `#line` directives keep the file names and line numbers for compiler errors.
    """
    return joined({path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.cuh"))})


def joined(files: dict[str, str]) -> str:
    """The texts of these files as one text, with each `#include` replaced by the file.

    files: name -> text.
    """
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
