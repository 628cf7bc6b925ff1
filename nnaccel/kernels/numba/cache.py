"""Machine code on disk: what Numba has compiled once is read in the next process.

Numba's own cache looks at the file of a function alone, so after a change in what the function
calls the old machine code would run; and it takes what it reads for whole, so one file that a power
cut has left empty would end every later training. Here a file is named by all sources of this
folder, and ends with a digest of what comes before.
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
    """Numba's cache of a function, whose failures cost time and nothing else.

    Raises RuntimeError where Numba finds no folder for it, AttributeError where Numba has renamed
    what is replaced here.
    """

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        del self._cache_file
        self._cache_file = VerifiedFiles(self.cache_path, self._impl.filename_base, None)

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


class VerifiedFiles(IndexDataCacheFile):
    """Numba's files of one function: one for each entry, and no index that must agree with it."""

    def load(self, key: tuple) -> Any:
        """The entry, or None where there is none. ValueError if it is not what was written."""
        name = self._name(key)
        try:
            content = Path(self._data_path(name)).read_bytes()
        except FileNotFoundError:
            return None
        if sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
            raise ValueError(f"{name} is damaged")
        return self._load_data(name)

    def save(self, key: tuple, data: Any) -> None:
        """Writes the entry whole or not at all, in place of one that may be there."""
        self._save_data(self._name(key), data)

    def _dump(self, obj: Any) -> bytes:
        content = super()._dump(obj)  # which says where it ends, so that more may follow
        return content + sha256(content).digest()

    def _name(self, key: tuple) -> str:
        """The name of a file. The key says types, processor and bytecode."""
        name = sha256(repr((key, numba_version, digest_of_sources())).encode()).hexdigest()
        return self._data_name(int(name[:32], 16))


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
