"""Prints the CPU seconds of the tests at the end of a test run, including those of started processes.

Seconds of the clock depend on what else the machine does; these hardly do. ``tests/conftest.py`` takes the hooks over.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from typing import Any

import pytest

METHOD = 25  # seconds that the tests of one method may cost, as a guide; what trains for longer is a claim
SHOWN = 12

_mark = 0.0
_by_place: dict[str, float] = defaultdict(float)


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def place(nodeid: str) -> str:
    """Returns the group of a test's time: a method, a suite, or a folder of the framework."""
    parts = nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py").split("/")
    return "/".join(parts[:3] if parts[0] == "modules" else parts[:2])


def pytest_runtest_logstart() -> None:
    """Starts the count of a test."""
    global _mark
    _mark = _processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Adds to the report of each phase (set-up, call, teardown) what it took since the last one."""
    global _mark
    report = yield
    now = _processor_seconds()
    report.user_properties.append(("processor seconds", now - _mark))
    _mark = now
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Sums up, in the process that collects what xdist's workers report."""
    _by_place[place(report.nodeid)] += dict(report.user_properties[-1:]).get("processor seconds", 0.0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the sum, the slowest groups, and each method above the limit."""
    if hasattr(config, "workerinput") or not sum(_by_place.values()) > 60:
        return
    terminalreporter.section("processor seconds")
    terminalreporter.line(f"{sum(_by_place.values()):7.0f} in all")
    dearest = sorted(_by_place.items(), key=lambda item: -item[1])
    for name, seconds in dearest[:SHOWN]:
        terminalreporter.line(f"{seconds:7.1f} {name}")
    for name, seconds in dearest:
        if name.startswith("modules/") and seconds > METHOD:
            terminalreporter.line(f"{name}: the tests of a method may take {METHOD}; what trains for longer is a claim")
