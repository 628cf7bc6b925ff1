"""Whether a table would fit into memory once it is encoded, told by its first rows."""

from nnaccel.devices.host_memory import memory_free
from nnaccel.tabular.delimited import AS_IT_IS, Layout
from nnaccel.tabular.features import fit_features
from nnaccel.tabular.queries import is_query
from nnaccel.tabular.streamed_sources import Stream
from nnaccel.tabular.tables import quiet

HALF = 0.5  # of the free memory: what an encoded table may take
LONGEST = 256  # bytes of the encoding that a byte of a file becomes at the most, or hardly more
ITEM = 4  # bytes of an encoded number


def is_large(source: str, layout: Layout = AS_IT_IS) -> tuple[int, int] | None:
    """About how many bytes the rows of a file would take when they are encoded, and how many are
    free, if the first is more than half of the second; None if not, and where it cannot be told.

    Of a query nobody knows how many rows it gives.   Errors of a file that cannot be read are left
    to whoever reads it.
    """
    free = memory_free()
    if free is None or is_query(source):
        return None
    try:
        stream = Stream(source, layout)
        if stream.n_bytes * LONGEST < HALF * free:
            return None
        size = _encoded_size(stream)
    except (ValueError, OSError):
        return None
    return (size, free) if size is not None and size > HALF * free else None


def _encoded_size(stream: Stream) -> int | None:
    """About how many bytes the encoded rows take."""
    first = next(stream.batches())
    n_rows = stream.n_rows
    if n_rows is None:
        if not first.done:
            return None
        n_rows = int(first.table.num_rows / first.done)
    with quiet():
        return ITEM * n_rows * len(fit_features(first.table).names)
