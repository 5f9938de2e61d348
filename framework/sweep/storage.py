"""The storage of a sweep's trials: a journal file, or a database that several machines share."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from framework.errors import UserError
from framework.files import cut_half_line

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

LOCK_SECONDS = 10
"""Seconds after which the lock of a killed process is removed."""
PATIENCE_SECONDS = 600.0
"""Seconds that a database may not answer, or a disk be full, before the supervisor gives up."""
DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "pymysql"}


def open_storage(place: str | Path) -> BaseStorage:
    """Opens the storage at ``place``, or makes it.

    Args:
        place: The path of a journal file, or a database's URL as SQLAlchemy writes it
            (``postgresql+psycopg2://user@host/name``, ``mysql+pymysql://…``, ``sqlite:///file``).

    Raises:
        UserError: it cannot be opened.
    """
    if "://" not in str(place):
        return _journal(Path(place))
    url = str(place)
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise UserError(f"--storage: {url!r} is not the URL of a database, nor the path of a file") from error
    try:
        storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (ImportError, NoSuchModuleError) as error:
        driver = next((name for kind, name in DRIVERS.items() if url.startswith(kind)), "the database's driver")
        raise UserError(f"--storage: {shown} needs a driver that is not installed: pip install {driver}") from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise UserError(f"--storage: {shown} cannot be opened: {reason}") from error
    if storage.engine.dialect.name == "sqlite":
        _write_ahead(storage.engine)
    # with one Optuna cache for all: each load_study would make its own
    return cast("BaseStorage", Patient(get_storage(storage)))


class Patient:
    """A storage that retries while it does not answer, for example while a database restarts.

    A request that was executed but not answered is repeated, so a trial may be made or claimed twice; this is detected.

    Args:
        storage: The storage.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._patience = PATIENCE_SECONDS

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return partial(self._ask, found) if callable(found) else found

    def hurry(self) -> None:
        """Stops retrying, because the user wants to end."""
        self._patience = 0.0

    def _ask(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import DBAPIError

        since, pause = time.monotonic(), 0.1
        while True:
            try:
                return method(*args, **kwargs)
            except json.JSONDecodeError as error:  # a complete line of a journal; only its last line may be incomplete
                raise UserError(f"the journal of the trials is damaged, a line is not JSON: {error}") from error
            except (OSError, DBAPIError, StorageInternalError) as error:
                cause = error.__cause__ or error
                reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
                if time.monotonic() - since > self._patience:
                    raise UserError(f"the storage of the trials does not answer, --resume resumes: {reason}") from error
                if pause == 0.1:
                    print(f"the storage of the trials does not answer, trying again: {reason}", file=sys.stderr)
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _write_ahead(engine: Any) -> None:
    """Sets SQLite to write-ahead logging, with one write per commit: six times faster, and consistent after a kill."""
    from sqlalchemy import event

    def connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", connect)
    engine.dispose()


def _journal(path: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class RepairingLock(JournalFileOpenLock):
        """A lock whose holder finds only complete lines.

        Optuna ignores an incomplete last line, which a killed process may leave, but the next line would be appended to
        it and make the file unreadable.
        """

        def acquire(self) -> bool:
            acquired = super().acquire()
            try:
                with open(path, "r+b") as file:
                    cut_half_line(file)
            except BaseException:
                self.release()
                raise
            return acquired

        def release(self) -> None:
            with suppress(RuntimeError):  # held so long that another process removed it
                super().release()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = RepairingLock(str(path), grace_period=LOCK_SECONDS)
        return cast("BaseStorage", Patient(JournalStorage(JournalFileBackend(str(path), lock))))
    except OSError as error:
        raise UserError(f"--storage: {path} cannot be opened: {error.strerror}") from error
    except ValueError as error:  # includes JSON errors
        raise UserError(f"--storage: {path} is not a journal of trials: {error}") from error
