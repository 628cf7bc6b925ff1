"""Machine code on disk, so that each function is compiled once and not once a process.

Numba's own cache has two faults for this project. It looks at the source file of a function alone,
so after a change in a called function the old machine code would run. And it does not verify files,
so an empty file after a power cut would end every later training. Here the name of a file depends
on all sources of this folder, and a file ends with a digest of its content.
"""

import warnings
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import __version__ as numba_version
from numba.core.caching import FunctionCache, IndexDataCacheFile

DIGEST = 32  # bytes of a SHA-256


class SourceKeyedCache(FunctionCache):
    """Numba's cache of a function. A failure costs time and a warning, nothing else.

    Raises RuntimeError where Numba finds no folder for it, AttributeError where Numba has renamed
    an attribute that is replaced here.
    """

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        del self._cache_file
        self._cache_file = VerifiedFiles(self.cache_path, self._impl.filename_base, None)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged file may raise any error
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


class VerifiedFiles(IndexDataCacheFile):
    """Numba's files of one function: one for each entry, without an index that could disagree with
    them."""

    def load(self, key: tuple) -> Any:
        """The entry, or None where there is none. Raises ValueError for a file that differs from
        what was written."""
        name = self._name(key)
        try:
            content = Path(self._data_path(name)).read_bytes()
        except FileNotFoundError:
            return None
        if sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
            raise ValueError(f"{name} is damaged")
        return self._load_data(name)

    def save(self, key: tuple, data: Any) -> None:
        """Writes the entry whole or not at all, and replaces an older one."""
        self._save_data(self._name(key), data)

    def _dump(self, obj: Any) -> bytes:
        content = super()._dump(obj)  # pickle marks its end, so a digest may follow
        return content + sha256(content).digest()

    def _name(self, key: tuple) -> str:
        """The name of a file. The key holds types, processor and bytecode."""
        name = sha256(repr((key, numba_version, digest_of_sources())).encode()).hexdigest()
        return self._data_name(int(name[:32], 16))


KEEP = "name a folder that can be written in the environment variable NUMBA_CACHE_DIR"
TOLD: set[str] = set()


def tell(fault: str, error: Exception, remedy: str = KEEP) -> None:
    """Warns of a fault the first time it occurs."""
    if fault not in TOLD:
        TOLD.add(fault)
        warnings.warn(f"{fault} ({error}); to compile takes seconds; {remedy}", stacklevel=3)


@cache
def digest_of_sources() -> str:
    """A name for the text of all files of this folder."""
    texts = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return sha256(b"\0".join(texts)).hexdigest()
