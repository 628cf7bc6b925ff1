"""The memory that this process can still allocate, by the machine, its container, and its
limits."""

import re
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

MEMINFO, STATM = Path("/proc/meminfo"), Path("/proc/self/statm")
# Files with the limit and the use of a container, in versions 2 and 1 of cgroups.
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def memory_free() -> int | None:
    """The free memory in bytes; None if the system does not report it."""
    found = [*_of_machine(), *_of_container(), *_of_limits()]
    return max(min(found), 0) if found else None


def _of_machine() -> list[int]:
    if not MEMINFO.exists():
        return []
    sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", MEMINFO.read_text()))
    return [1024 * int(sizes["MemAvailable"])] if "MemAvailable" in sizes else []


def _of_container() -> list[int]:
    """The free bytes in the control group of a container, which the process sees as its root."""
    for limit, used in GROUPS:
        try:
            most, now = Path(limit).read_text().strip(), Path(used).read_text()
        except OSError:
            continue
        if most.isdecimal():
            return [int(most) - int(now)]
    return []


def _of_limits() -> list[int]:
    """Of `ulimit -v`, of addresses, and of `ulimit -d`, of data, beside what the process has."""
    if resource is None or not STATM.exists():
        return []
    pages = STATM.read_text().split()
    taken = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}
    limits = ((resource.getrlimit(kind)[0], int(n)) for kind, n in taken.items())
    page = resource.getpagesize()
    return [most - n * page for most, n in limits if most != resource.RLIM_INFINITY]
