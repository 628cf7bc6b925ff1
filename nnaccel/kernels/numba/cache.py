"""Machine code on disk: what Numba has compiled once is read in the next process.

Numba's own cache looks at the file of a function alone, so after a change in what the function
calls the old machine code would run; and it takes what it reads for whole, so one file that a power
cut has left empty would end every later training. Here a file is named by all sources of this
folder, and it begins with a digest of what follows.
"""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from pickle import loads
from typing import Any
from uuid import uuid4

from numba import __version__ as numba_version
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps


class SourceKeyedCache(FunctionCache):
    """Numba's cache of a function, whose failures cost time and nothing else.

    Raises RuntimeError where Numba finds no folder for it, AttributeError where Numba has renamed
    what is replaced here.
    """

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        del self._cache_file
        self._cache_file = VerifiedFiles(Path(self.cache_path), self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # nobody knows what may be in a file, or what that raises
            tell(
                f"compiled code in the folder {self.cache_path} cannot be read",
                error,
                "should this come again, delete the folder",
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            tell(f"compiled code cannot be kept in the folder {self.cache_path}", error)


class VerifiedFiles:
    """The entries of one function: a file each, which holds a pickle and before it its SHA-256."""

    def __init__(self, folder: Path, function: str) -> None:
        self.folder, self.function = folder, function

    def path(self, key: tuple) -> Path:
        """The file of an entry. The key says types, processor and bytecode."""
        name = sha256(repr((key, numba_version, digest_of_sources())).encode()).hexdigest()
        return self.folder / f"{self.function}-{name[:32]}.nbc"

    def load(self, key: tuple) -> Any:
        """The entry, or None where there is none. ValueError if it is not what was written."""
        try:
            content = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, pickled = content[:32], content[32:]
        if sha256(pickled).digest() != digest:
            raise ValueError(f"{self.path(key).name} is damaged")
        return loads(pickled)

    def save(self, key: tuple, data: Any) -> None:
        """Writes the entry whole or not at all, in place of one that may be there."""
        pickled, path = dumps(data), self.path(key)
        written = path.with_name(f"{path.name}.{uuid4().hex}")
        try:
            written.write_bytes(sha256(pickled).digest() + pickled)
            os.replace(written, path)
        finally:
            with suppress(OSError):
                written.unlink(missing_ok=True)


KEEP = "name a folder that can be written in the environment variable NUMBA_CACHE_DIR"
TOLD: set[str] = set()


def tell(fault: str, error: Exception, remedy: str = KEEP) -> None:
    """A warning, the first time that there is this fault."""
    if fault not in TOLD:
        TOLD.add(fault)
        warnings.warn(f"{fault} ({error}); to compile takes seconds; {remedy}", stacklevel=3)


@cache
def digest_of_sources() -> str:
    """A name for the text of all files of this folder."""
    texts = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return sha256(b"\0".join(texts)).hexdigest()
