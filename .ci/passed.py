"""A plugin of pytest: tests that have passed need not run again beside libraries they do not use.

    PYTHONPATH=.ci PASSED=file REMEMBER=1 pytest -p passed    # writes the names of those that pass
    PYTHONPATH=.ci PASSED=file pytest -p passed               # leaves these out

A test that needs a library is skipped where the library is missing, so it is not among them. The
files in AGAIN look for libraries inside their tests, or test what the library is chosen by.
"""

import os
from pathlib import Path

import pytest

FILE = Path(os.environ["PASSED"])
AGAIN = (
    "tests/maths/test_precision.py::test_the_oracle",
    "tests/maths/test_precision.py::test_kernels_for_torch_and_jax",
    "tests/maths/test_precision.py::test_libraries_agree",
    "tests/maths/test_precision.py::test_dense",
    "tests/kernels/test_backend.py",
    "tests/devices/",
    "tests/test_docs.py",
    "tests/test_names.py",
    "tests/test_user_guide.py",
    "tests/training/",
)

passed: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        passed.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    in_charge = not hasattr(session.config, "workerinput")  # of the processes of pytest-xdist
    if in_charge and "REMEMBER" in os.environ:
        FILE.write_text("\n".join(passed))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "REMEMBER" in os.environ:
        return
    known = set(FILE.read_text().splitlines())
    out = [i for i in items if i.nodeid in known and not i.nodeid.startswith(AGAIN)]
    config.hook.pytest_deselected(items=out)
    left_out = set(out)
    items[:] = [item for item in items if item not in left_out]
