"""Forks Python programs instead of starting them: everything is imported already, so that they start immediately.

Before a release they are all started for real.
"""

from __future__ import annotations

import atexit
import importlib
import inspect
import io
import os
import runpy
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from checkout import PYTHONPATH
from resume_harness import in_child, start_child

from framework.__main__ import main

STARTED = bool(os.environ.get("START_PROCESSES"))
"""Whether programs are really started, as with ``pytest --release``."""
LATE = (
    "framework.commands.train", "framework.runs.command_line", "framework.runs.folder", "framework.tracking.trial_callbacks", "framework.sweep.program",
    "framework.tracking.progress", "framework.tracking.provenance", "matplotlib.figure", "omegaconf", "wandb.sdk.launch",
    "wandb.apis.public", "wandb.sdk.lib.gitlib", "framework.commands.sweep", "framework.sweep.figures", "sklearn.ensemble",
    "optuna.importance", "optuna.storages._rdb.storage", "alembic.command", "sqlalchemy.dialects.postgresql.psycopg2",
)  # fmt: skip
"""Modules that a run or a sweep imports while it runs."""


def import_late() -> None:
    """Imports here, once, what each forked process would import by itself."""
    for name in LATE:
        with suppress(ImportError):  # of another version of W&B
            importlib.import_module(name)


def warm_up(*command: str) -> None:
    """Imports and looks up here, once, what each forked ``framework COMMAND`` would do by itself."""
    import_late()
    with redirect_stdout(io.StringIO()):
        assert main([*command, "--print_config"]) == 0


class ForkedPopen(subprocess.Popen):
    """``subprocess.Popen`` for ``python -m MODULE ...`` and ``python FILE ...``.

    Descriptors, environment, session, arguments, signal handlers and the exit code are those of a process that was
    started; what is imported already is not.
    """

    def _execute_child(self, *given: Any) -> None:
        if STARTED:
            super()._execute_child(*given)
            return
        names = list(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]
        asked = SimpleNamespace(**dict(zip(names, given, strict=True)))
        self.pid = start_child(lambda: _become(asked))
        self._child_created = True
        self._close_pipe_fds(
            asked.p2cread, asked.p2cwrite, asked.c2pread, asked.c2pwrite, asked.errread, asked.errwrite
        )


def _become(asked: SimpleNamespace) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if asked.start_new_session:
        os.setsid()
    if asked.cwd is not None:
        os.chdir(asked.cwd)
    for number, source in enumerate((asked.p2cread, asked.c2pwrite, asked.errwrite)):
        if source != -1:
            os.dup2(source, number)
    kept = {0, 1, 2, *asked.pass_fds}
    for number in map(int, os.listdir("/proc/self/fd")):
        # the other ends of these would never see their end; a log handler may still write to an open file
        with suppress(OSError):
            kind = os.fstat(number).st_mode
            if number not in kept and (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
                os.close(number)
    if asked.env is not None:
        os.environ.clear()
        os.environ.update(asked.env)
    atexit._clear()  # what the parent has to do at its end
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    try:
        python(asked.args)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


def python(command: Sequence[str]) -> None:
    """Does what the command ``[/usr/bin/env] python [-P|-u] -m MODULE ...`` or ``... python FILE ...`` does."""
    words = [*command][1 if command[0].endswith("/env") else 0 :]
    assert words[0] == sys.executable or words[0] == "python", words
    words = words[2 if words[1] in ("-P", "-u") else 1 :]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


def run_python(command: Sequence[str]) -> int:
    """Runs such a command to its end; the exit code as a shell has it."""
    if STARTED:
        code = subprocess.call(command, env=os.environ | {"PYTHONPATH": PYTHONPATH})
        return code if code >= 0 else 128 - code
    return in_child(lambda: python(command))


@contextmanager
def forked_by(*modules: ModuleType, popen: type[subprocess.Popen] = ForkedPopen) -> Iterator[None]:
    """A context manager in which ``modules`` fork programs instead of ``subprocess.Popen``, or use another ``popen``."""
    import_late()
    stand_in = SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    with pytest.MonkeyPatch.context() as patch:
        if STARTED:
            patch.setenv("PYTHONPATH", PYTHONPATH)
        for module in modules:
            patch.setattr(module, "subprocess", stand_in)
        yield
