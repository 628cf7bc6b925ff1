"""How much memory is free under the limits of a process."""

import pytest

resource = pytest.importorskip("resource", reason="a system without limits of this kind")

from nnaccel.devices import host_memory


@pytest.mark.parametrize(("kind", "pages"), [("RLIMIT_AS", 100), ("RLIMIT_DATA", 6)])
def test_limits_of_addresses_and_of_data_are_seen(tmp_path, monkeypatch, kind, pages):
    statm, page = tmp_path / "statm", resource.getpagesize()
    statm.write_text("100 20 3 4 0 6 0\n")
    limited, most = getattr(resource, kind), 1000 * page
    monkeypatch.setattr(host_memory, "STATM", statm)
    unlimited = (resource.RLIM_INFINITY,) * 2
    found = {limited: (most, most)}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: found.get(kind, unlimited))
    assert host_memory._of_limits() == [(1000 - pages) * page]
    assert host_memory.memory_free() <= (1000 - pages) * page
