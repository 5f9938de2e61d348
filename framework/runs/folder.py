"""One run: its folder and its name."""

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
from framework.settings import above, at_least, one_of

Mode = Literal["min", "max"]
OnNan = Literal["stop", "ignore"]
RESULTS = ("metrics.jsonl", "checkpoints", "predictions.parquet")
ID_CHARACTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True)
class RunConfig:
    """The ``run`` section: where a run is saved, which checkpoints are kept, and which metric decides the best.

    Attributes:
        root: Folder of all runs.
        method: Folder of this method's runs, by default the stem of the first config file.
        name: Name of the run's folder, by default the time and a short random suffix.
        monitor: Metric that decides which checkpoint is the best, such as ``val/accuracy``; without one, only the
            resume point ``last.ckpt`` is kept.
        mode: Whether ``monitor`` is better when larger (``max``) or smaller (``min``).
        save_top_k: Number of best checkpoints to keep.
        resume_every_n_seconds: Minimum time between two resume points; one is always written when training ends.
        resume_every_n_steps: If set, a resume point is written after this many optimiser steps instead.
        on_nan: ``stop`` ends a training whose loss is NaN or infinite, with its last good checkpoint; ``ignore``
            continues.
        max_unpacked_gib: How much one compressed file of data may unpack to, in GiB (``.gz``, ``.zip``, ``.npz``,
            Parquet).

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
    max_unpacked_gib: float = 8.0

    def __post_init__(self) -> None:
        one_of(get_args(Mode), **{"run.mode": self.mode})
        one_of(get_args(OnNan), **{"run.on_nan": self.on_nan})
        for key in ("method", "name"):
            value = getattr(self, key)
            if value is not None and (not value or Path(value).name != value):
                raise UserError(f"run.{key}: {value!r} is not accepted; the name of one folder is needed")
        at_least(1, **{"run.resume_every_n_steps": self.resume_every_n_steps})
        above(0, **{"run.max_unpacked_gib": self.max_unpacked_gib})


class NameTaken(UserError):
    """Raised if another process has made a folder with the generated name; a new name is then generated."""


@dataclass
class Run:
    """The identity of a run, shared by everything that writes into its folder.

    Attributes:
        folder: ``<root>/<method>/<name>``, or a folder inside it for an evaluation of one of its checkpoints.
        name: The folder's name.
        run_id: Eight letters and digits; also W&B's run id, and saved in every checkpoint.
        fresh: Whether the folder's name was generated, so that the folder must not exist yet.
        command: The command line, for the record.
        resumed: Whether this process resumes a run that another process started.
        quiet: Whether nothing is written (``fast_dev_run``).
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
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def held(self) -> bool:
        """Whether this process, or the one that started it, holds the folder's lock."""
        return self._lock is not None or self._inherited

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None, "_inherited": self.held}  # pickled for a process that a strategy spawns

    def hold(self, trains: bool) -> None:
        """Makes the folder and locks it until :meth:`release`; called on rank 0, before anything is written.

        Args:
            trains: Whether a new training starts; the record of an earlier attempt in this folder is then moved aside.

        Raises:
            NameTaken: the name was generated, and another process has just made a folder with it.
            UserError: another process uses the folder, it cannot be written, or a run with checkpoints was made there
                since this one was built.
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
            raise NameTaken(f"{self.folder} has just been made by another process; run the command again") from error
        except OSError as error:
            self.release()
            raise UserError(f"run folder {self.folder}: cannot be written: {error.strerror or error}") from error
        except UserError:
            self.release()
            raise

    def _begin_anew(self) -> None:
        """Renames the record of a run of the same name that has no checkpoint to resume from."""
        if not (self.folder / PROVENANCE).exists() or read_record(self.folder).get("subcommand") != "fit":
            return
        refuse_if_kept(self.folder)
        for path in (self.folder / name for name in (PROVENANCE, "metrics.jsonl", "metrics.csv")):
            if path.exists():  # kept beside the new one: it may still be wanted
                kept = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
                path.rename(next(place for place in kept if not place.exists()))

    def discard(self) -> None:
        """Removes the files of a start that failed, unless the folder existed before or holds results."""
        if self.folder not in self._made or any((self.folder / name).exists() for name in RESULTS):
            return
        for name in (PROVENANCE, "config.yaml"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "wandb", ignore_errors=True)

    def release(self) -> None:
        """Releases the lock; removes the folder, and the parents made for it, if nothing was written there."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        made, self._made = self._made, []
        with suppress(OSError):
            for path in made:
                path.rmdir()


def new_name() -> str:
    """Returns the local time and four random characters: ``20260131-235959-k3x9``."""
    suffix = "".join(secrets.choice(ID_CHARACTERS) for _ in range(4))
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{suffix}"


def new_id() -> str:
    """Returns eight random letters and digits, like W&B's own run ids."""
    return "".join(secrets.choice(ID_CHARACTERS) for _ in range(8))


def refuse_if_kept(folder: Path) -> None:
    """Raises if a new run would overwrite one that can be resumed.

    Raises:
        UserError: the folder holds a checkpoint.
    """
    if (folder / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"run.name: {folder} exists and holds a checkpoint; resume it with --ckpt_path {folder}, or give another "
            "name"
        )


def ensure_writable(folder: Path) -> None:
    """Makes ``folder`` and writes a test file, so that a run does not fail only after its first epoch.

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
