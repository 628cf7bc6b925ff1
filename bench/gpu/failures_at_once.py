"""A pytest plugin that prints a line for each failure immediately.

pytest lists the failures at the end of a run, which an interrupted run does not reach.
"""

from typing import Any

import pytest


@pytest.hookimpl(trylast=True)  # after the terminal reporter is registered
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):  # not in pytest-xdist workers
        config.pluginmanager.register(FailuresAtOnce(terminal))


class FailuresAtOnce:
    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed:
            return
        kind = "ERROR" if report.when in ("setup", "teardown") else "FAILED"
        self._terminal.write_line(f"\n{kind} {report.nodeid} - {reason_of(report)}")


def reason_of(report: pytest.TestReport) -> str:
    """The first line of the error of a failed test."""
    lines = str(report.longrepr).strip().splitlines()
    return next((line[1:].strip() for line in lines if line.startswith("E  ")), lines[0])
