"""One run: its folder, its name, and what is written there at the start."""

from __future__ import annotations

import itertools
import secrets
import shutil
import string
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from framework.checkpoints.finding import PROVENANCE, read_record
from framework.errors import UserError
from framework.files import remove_stale, temporary_beside
from framework.runs.lock import FolderLock
from framework.settings import at_least, one_of

Mode = Literal["min", "max"]
OnNan = Literal["stop", "ignore"]
RESULTS = ("metrics.jsonl", "checkpoints", "predictions.parquet")
ID_CHARACTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, what is kept of it, and what counts as best.

    Attributes:
        root: Folder of all runs.
        method: Folder of this method's runs, by default the stem of the first config file.
        name: Name of the run's folder, by default the time and a short random suffix.
        monitor: Metric that decides which checkpoint is the best, such as ``val/accuracy``; without one, only the
            resume point ``last.ckpt`` is kept.
        mode: Whether ``monitor`` is better when larger (``max``) or smaller (``min``).
        save_top_k: How many of the best checkpoints to keep.
        resume_every_n_seconds: Least time between two resume points; one is always written when training ends.
        resume_every_n_steps: A resume point after this many optimiser steps instead.
        on_nan: ``stop`` ends a training whose loss is NaN or infinite, with its last good checkpoint; ``ignore`` goes
            on.

    Raises:
        UserError: a setting is not accepted.
    """

    root: str = "runs"
    method: str | None = None
    name: str | None = None
    monitor: str | None = None
    mode: Mode = "min"
    save_top_k: int = 1
    resume_every_n_seconds: float = 30.0
    resume_every_n_steps: int | None = None
    on_nan: OnNan = "stop"

    def __post_init__(self) -> None:
        one_of(get_args(Mode), **{"run.mode": self.mode})
        one_of(get_args(OnNan), **{"run.on_nan": self.on_nan})
        for key in ("method", "name"):
            value = getattr(self, key)
            if value is not None and (not value or Path(value).name != value):
                raise UserError(f"run.{key}: {value!r} is not accepted; the name of one folder is needed")
        at_least(1, **{"run.resume_every_n_steps": self.resume_every_n_steps})


class NameTaken(UserError):
    """Another process has made a folder of the name that was made up for a run; another name will do."""


@dataclass
class Run:
    """A run's identity, shared by everything that writes into its folder.

    Attributes:
        folder: ``<root>/<method>/<name>``, or a folder inside it for an evaluation of one of its checkpoints.
        name: The folder's name.
        run_id: Eight letters and digits; W&B's run id, and in every checkpoint.
        fresh: Whether the folder's name was made up and must be this run's alone.
        command: The command line, for the record.
        resumed: Whether this process goes on with a run that another one began.
        quiet: Whether nothing is to be written (``fast_dev_run``).
    """

    folder: Path
    name: str
    run_id: str
    fresh: bool = False
    command: list[str] = field(default_factory=list)
    resumed: bool = False
    quiet: bool = False
    _inherited: bool = False
    _begun: bool = False
    _lock: FolderLock | None = None
    _made: list[Path] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def held(self) -> bool:
        """Whether the folder is this process's own now, or that of the one which started it."""
        return self._lock is not None or self._inherited

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None, "_inherited": self.held}  # for a process that a strategy spawns

    def hold(self, trains: bool) -> None:
        """Makes the folder, this process's own until :meth:`release`; to be called on rank 0, before anything writes.

        Args:
            trains: Whether a training is to begin, for which a record that an earlier attempt left there is removed.

        Raises:
            NameTaken: the name was made up, and another process was quicker with the same one.
            UserError: another process uses the folder, it cannot be written, or a run with checkpoints has been made
                there since this one was built.
        """
        if self.quiet or self.held:
            return
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=not self.fresh)
            self.fresh, self._made = False, missing
            self._lock = FolderLock(self.folder)
            remove_stale(self.folder)
            ensure_writable(self.folder)
            if trains and not self.resumed and not self._begun:
                self._begin_anew()
            self._begun = True
        except FileExistsError as error:
            if not self.folder.is_dir():
                raise UserError(f"run folder {self.folder}: cannot be made: {error.filename} is a file") from error
            raise NameTaken(f"{self.folder} has just been made by another process; give the command again") from error
        except OSError as error:
            self.release()
            raise UserError(f"run folder {self.folder}: cannot be written: {error.strerror or error}") from error
        except UserError:
            self.release()
            raise

    def _begin_anew(self) -> None:
        """Puts aside the record of a run of the same name that left no checkpoint to go on from."""
        if not (self.folder / PROVENANCE).exists() or read_record(self.folder).get("subcommand") != "fit":
            return
        refuse_if_kept(self.folder)
        for path in (self.folder / name for name in (PROVENANCE, "metrics.jsonl", "metrics.csv")):
            if path.exists():  # kept beside it: nobody knows whether all of it was wanted
                kept = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
                path.rename(next(place for place in kept if not place.exists()))

    def discard(self) -> None:
        """Removes what a start that failed wrote, unless the folder was there before or holds results."""
        if self.folder not in self._made or any((self.folder / name).exists() for name in RESULTS):
            return
        for name in (PROVENANCE, "config.yaml"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)

    def release(self) -> None:
        """Lets others use the folder; removes it, and those made for it, if nothing was written there."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        made, self._made = self._made, []
        with suppress(OSError):
            for path in made:
                path.rmdir()


def new_name() -> str:
    """Local time and four random characters: ``20260131-235959-k3x9``."""
    suffix = "".join(secrets.choice(ID_CHARACTERS) for _ in range(4))
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{suffix}"


def new_id() -> str:
    """Eight random letters and digits, as W&B's own run ids are."""
    return "".join(secrets.choice(ID_CHARACTERS) for _ in range(8))


def refuse_if_kept(folder: Path) -> None:
    """Raises where a new run would take the place of one that can go on.

    Raises:
        UserError: the folder holds a checkpoint.
    """
    if (folder / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"run.name: {folder} exists and holds a checkpoint; go on with it by --ckpt_path {folder}, or give another "
            "name"
        )


def ensure_writable(folder: Path) -> None:
    """Makes ``folder`` and tries a write, so that a run does not find out after its first epoch.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = temporary_beside(folder / "writable")
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise UserError(f"run folder {folder}: cannot be written: {error.strerror}") from error
