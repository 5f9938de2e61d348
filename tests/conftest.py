"""Shared by every test: one thread, offline tracking, and a check that a test leaves the process as it found it."""

from __future__ import annotations

import os
import signal
import threading
import time

os.environ.setdefault("WANDB_MODE", "offline")
os.environ["WANDB_SILENT"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch  # noqa: F401 - its log handler keeps the stderr of its first import, which a test may close
import pytest
import torch
from processor_time import (  # noqa: F401 - hooks
    pytest_runtest_logreport,
    pytest_runtest_logstart,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Before a release, what the tests fork is started for real."""
    if config.getoption("--release"):
        os.environ["START_PROCESSES"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", action="store_true", help="also run what only `make test-all` runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the second tier, unless it is asked for; the suites come first.

    They fork most, and a fork costs the more the more memory the process has, which grows with every test.
    """
    items.sort(key=lambda item: not item.nodeid.startswith("tests/suites/"))
    if config.getoption("--release"):
        return
    left_out = [item for item in items if item.get_closest_marker("release")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("release")]


# What importing or running a library leaves behind by design, in every process.
_LASTING = {
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "WANDB_SERVICE",
    "PYTEST_CURRENT_TEST",
    "KMP_INIT_AT_FORK",
    "KMP_DUPLICATE_LIB_OK",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TORCHINDUCTOR_CACHE_DIR",
}


@pytest.fixture(autouse=True)
def leaves_nothing_behind():
    """Fails a test that leaks environment variables, signal handlers or non-daemon threads."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = set(threading.enumerate())
    yield
    changed = {k for k in {*environment, *os.environ} if environment.get(k) != os.environ.get(k)} - _LASTING
    for key in changed:
        if key in environment:
            os.environ[key] = environment[key]
        else:
            del os.environ[key]
    for number, handler in handlers.items():
        assert signal.getsignal(number) == handler, f"the handler of signal {number} was not put back"
    assert not changed, f"environment variables were left changed: {changed}"
    left = {thread for thread in threading.enumerate() if thread.is_alive() and not thread.daemon} - threads
    left = {thread for thread in left if not thread.name.startswith(("wandb", "asyncio"))}
    deadline = time.monotonic() + 10  # transformers tells its loading threads to end and does not wait for them
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = {thread for thread in left if thread.is_alive()}
    assert not left, f"threads were left running: {left}"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test runs in a fresh folder, so that no run folder lands in the checkout."""
    monkeypatch.chdir(tmp_path)
