"""A few of the random tables; `python -m tests.tabular.random_tables 2000` is the long form."""

import pytest

pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
from tests.tabular.random_tables import outcome


@pytest.mark.filterwarnings("ignore::nnaccel.tabular.tables.TableWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
def test_random_tables_are_refused_or_of_use(tmp_path):
    found = [outcome(seed, tmp_path) for seed in range(40)]
    assert 10 < found.count("trained") < 40
