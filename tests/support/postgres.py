"""A real PostgreSQL server for tests, in a temporary folder with a socket, removed afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

OWNER = "postgres"  # the server refuses to run as root
# Nothing has to outlive the tests, so nothing waits for a disk.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "listen_addresses": "",
}


@dataclass
class Server:
    """A running server.

    Attributes:
        folder: Where its data and its socket are.
        pid: Of its first process; a test may stop and continue it.
    """

    folder: Path
    pid: int

    def __post_init__(self) -> None:
        self._names = (f"test{number}" for number in count())

    def new_database(self) -> str:
        """The URL of an empty database, as SQLAlchemy and Optuna take it."""
        name = next(self._names)
        connection = self._connect()
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+psycopg2://{OWNER}@/{name}?host={self.folder}"

    def _connect(self) -> Any:
        import psycopg2

        return psycopg2.connect(host=str(self.folder), user=OWNER, dbname="postgres")

    def answers(self) -> bool:
        """Returns whether it accepts connections."""
        import psycopg2

        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True


def find_binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``: Debian's newest, else that of the ``initdb`` on the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = installed[-1] if installed else shutil.which("initdb")
    folder = Path(found).resolve().parent if found else None
    return folder if folder and (folder / "postgres").exists() else None


@contextmanager
def server(binaries: Path) -> Iterator[Server]:
    """Makes a data folder, starts a server on it, and stops and removes both.

    Args:
        binaries: See :func:`find_binaries`.

    Raises:
        RuntimeError: it does not start; the message ends with its log.
    """
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        as_owner: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            as_owner |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        data, log = folder / "data", folder / "log"
        made = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                OWNER,
                "--auth=trust",
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
            ],
            capture_output=True,
            text=True,
            **as_owner,
        )
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stderr}")
        settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        # a run of the tests that is killed takes the server with it
        with_parent = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        command = [*with_parent, binaries / "postgres", "-D", data, "-k", folder, *settings]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **as_owner)
        try:
            running, deadline = Server(folder, process.pid), time.monotonic() + 60
            while not running.answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.02)
            yield running
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGQUIT)  # at once: clients that a test left are cut off
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
