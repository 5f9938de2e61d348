"""Turns errors that libraries raise because of a user's settings into user errors.

torch, numpy, Lightning and the operating system do not know the config; here their errors get the setting that most
likely caused them. An error that is not recognised is not changed: a bug keeps its traceback.
"""

from __future__ import annotations

import math
import multiprocessing.connection
import os
import re
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from framework.errors import RunFailed, UserError
from framework.files import NO_ROOM

_SECTIONS = ("model", "data", "techniques")
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Cannot allocate memory|Unable to allocate|bad_alloc")
_TOO_LARGE = re.compile(
    r"[Ss]torage size calculation overflowed|integer multiplication overflow|Overflow when unpacking"
    r"|Maximum allowed (dimension|size) exceeded|array is too big|too large to convert|index-sized integer"
    r"|convert float infinity to integer|too large to be|invalid array size|larger than the maximum"
)
_WORKER_HINT = (
    "A loader's process has died, so the run ends; the usual reason is too little memory or /dev/shm: each of the "
    "data.num_workers processes uses a share of both"
)
_RARE_VALIDATION = re.compile(r"`val_check_interval` \((\d+)\) must be less than .* training batches \((\d+)\)")
_DYING_SECONDS = 5.0  # time during which a worker whose connection broke may still appear alive
_TRIED = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ \w+)")


@contextmanager
def user_mistakes(config: Mapping[str, Any]) -> Iterator[None]:
    """A context manager that turns recognised errors into a :class:`UserError`.

    Args:
        config: The settings as a tree of plain data, defaults included.

    Raises:
        UserError: a library's error was recognised.
        RunFailed: a loader's worker process died.
    """
    try:
        with _recognised(config):
            yield
    except RuntimeError as error:
        # torch's SIGCHLD handler can raise at any line, also in the except clauses above
        if _said_by_torch(error):
            raise RunFailed(f"{_said_by_torch(error)}. {_WORKER_HINT}") from error
        raise


@contextmanager
def _recognised(config: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        error.args = (_located(str(error), config),)
        raise
    except Exception as error:
        lost = lost_worker(error)
        if lost is not None:
            raise RunFailed(f"{lost}. {_WORKER_HINT}") from error
        message = explained(error, config)
        if message is None:
            raise
        raise UserError(message) from error


def explained(error: BaseException, config: Mapping[str, Any]) -> str | None:
    """Returns a message for an error that a setting or the machine caused; ``None`` for any other."""
    if isinstance(error, UserError):
        return None
    text = str(error)
    if isinstance(error, MisconfigurationException) or text.startswith("Early stopping conditioned on metric"):
        return first_line(error)
    if text.startswith("Error(s) in loading state_dict"):
        lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
        return f"the checkpoint's weights do not fit the configured model: {' '.join(lines)[:400]}"
    if isinstance(error, ValueError) and text.startswith("Expected more than 1 value per channel when training"):
        accepted = "accepted: a batch_size that leaves no batch of one sample, or drop_last: true"
        return _located(f"batch_size: a batch normalisation got one value per channel; {accepted}", config)
    if isinstance(error, ValueError) and (rare := _RARE_VALIDATION.search(text)):
        accepted = (
            f"accepted: at most {rare[2]}, a share such as 1.0, or any with trainer.check_val_every_n_epoch: null"
        )
        return f"trainer.val_check_interval: {rare[1]}, but an epoch has {rare[2]} batches; {accepted}"
    if isinstance(error, ValueError) and text.endswith("but got num_samples=0"):
        return "data: the data set is empty, 0 samples"
    if isinstance(error, RuntimeError) and text == "Could not determine home directory.":
        homes = [f"{key}: {value}" for key, value in leaves(config) if isinstance(value, str) and value.startswith("~")]
        return f"{homes[0] if homes else 'a path'} starts with the folder of a user who is not known on this machine"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(text)):
        traceback.clear_frames(error.__traceback__)  # frees the memory that they hold
        return f"out of memory{_wanted(text)}; {_largest(config)}"
    if isinstance(error, RuntimeError | ValueError | TypeError | OverflowError) and _TOO_LARGE.search(text):
        return f"out of memory: a size is too large for any machine ({first_line(error)[:120]}); {_largest(config)}"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"{_named(error.filename, config)} cannot be written: {error.strerror}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{_named(error.filename, config)}: {error.strerror}"
    return None


def lost_worker(error: BaseException) -> str | None:
    """Returns how the ``DataLoader`` worker died that caused ``error``; ``None`` for any other error.

    torch reports a worker that it finds dead. A worker that dies while it sends a tensor often still appears alive:
    then the reader gets the error of a broken connection (``ConnectionResetError``, ``EOFError``,
    ``FileNotFoundError``), and the worker is known to be dead only a moment later.
    """
    said: str | None = None
    found: BaseException | None = error
    while found is not None:
        said = _said_by_torch(found) or said  # the first error of a chain has the details: the signal, the exit code
        for frame, _ in traceback.walk_tb(found.__traceback__) if said is None else ():
            if frame.f_code.co_name == "_try_get_data":  # checked first: reading f_locals keeps its objects alive
                loader = frame.f_locals.get("self")
                if isinstance(loader, _MultiProcessingDataLoaderIter):
                    return _dead_worker(loader)
        found = found.__cause__ or found.__context__
    return said


def _said_by_torch(error: BaseException) -> str | None:
    """Returns torch's message on a dead worker, if ``error`` is one."""
    is_said = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
    return first_line(error).rstrip(".") if is_said else None


def _dead_worker(loader: _MultiProcessingDataLoaderIter) -> str | None:
    """Returns torch's message for a loader's dead process; processes that the loader ended itself do not count."""
    ended = multiprocessing.connection.wait([process.sentinel for process in loader._workers], _DYING_SECONDS)
    for process in loader._workers:
        if process.sentinel in ended:
            process.join(_DYING_SECONDS)  # its files are closed, its exit code may not be known yet
        if (code := process.exitcode) is None or (code == 0 and loader._shutdown):
            continue
        if code < 0:
            return f"DataLoader worker (pid {process.pid}) is killed by signal: {signal.strsignal(-code)}"
        return f"DataLoader worker (pid {process.pid}) exited unexpectedly with exit code {code}"
    return None


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields every setting of the classes with its key as in the config; members of a list one by one."""

    def walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from walk(key if name == "init_args" else f"{key}.{name}", item)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from walk(key, item)
        else:
            yield key, value

    for section in _SECTIONS:
        yield from walk(section, config.get(section))


def _located(message: str, config: Mapping[str, Any]) -> str:
    """Adds the full key to a message that starts with an argument's name, or with a file that a setting names."""
    head = message.partition(":")[0]
    argument = re.escape(head.partition(".")[0])
    found = list(leaves(config))
    owners = {
        owner[1] for key, _ in found if (owner := re.match(rf"(model|data|techniques\.\w+)\.{argument}(\.|$)", key))
    }
    if len(owners) == 1:
        return f"{owners.pop()}.{message}"
    key = _setting_of(head, config)
    return f"{key}: {message}" if key else message


def _setting_of(file: str, config: Mapping[str, Any]) -> str | None:
    """Returns the setting with the path of a file, or of a folder that contains it."""
    for key, value in leaves(config):
        if isinstance(value, str) and not key.endswith(".class_path"):
            for place in {value.rstrip("/"), os.path.expanduser(value).rstrip("/")} - {""}:
                if file == place or file.startswith(f"{place}/"):
                    return key
    return None


def _named(file: Any, config: Mapping[str, Any]) -> str:
    """Returns a file's path for a message, after its setting, cut if it is long."""
    if file is None:
        return "a file"
    key, text = _setting_of(str(file), config), str(file)
    shown = text if len(text) <= 120 else f"{text[:117]}..."
    return f"{key}: {shown}" if key else shown


def _wanted(text: str) -> str:
    found = _TRIED.search(text)
    if found is None:
        return ""
    size = f"{int(found[1]) / 1e9:.3g} GB" if found[1] else found[2]
    return f": {size} could not be allocated"


def _largest(config: Mapping[str, Any]) -> str:
    """Returns the settings that most likely decide the size: the largest numbers above 1."""
    sizes: dict[str, float] = {}
    for key, value in leaves(config):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not math.isnan(value) and abs(value) > 1:
            sizes[key] = max(value, sizes.get(key, value), key=abs)
    largest = sorted(sizes.items(), key=lambda item: -abs(item[1]))[:5]
    listed = ", ".join(f"{key} = {_short(value)}" for key, value in largest)
    return f"the largest settings: {listed or 'none'}"


def _short(number: float) -> str:
    text = str(number)
    return text if len(text) <= 24 else f"{text[:8]}... ({len(text)} digits)"
