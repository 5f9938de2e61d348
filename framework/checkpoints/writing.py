"""Writes checkpoints atomically, with plain data only."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from framework.checkpoints.reading import open_checkpoint
from framework.errors import UserError
from framework.files import remove_stale, temporary_beside
from framework.plain import plain_data

_ATOMS = {
    *(type(None), bool, int, float, complex, str, bytes),
    *(torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device),
}
_MAPPINGS = {dict, OrderedDict, Counter}
_SEQUENCES = {list, tuple, set}
_HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")


def check_plain(value: Any, where: str = "checkpoint") -> None:
    """Checks that ``torch.load(weights_only=True)`` will open a checkpoint that is about to be written.

    Unlike :func:`framework.plain.plain_data` it converts nothing, so that every state is read back unchanged.

    Raises:
        UserError: a value is not plain data; the message names its key.
    """
    kind = type(value)
    if kind in _ATOMS:
        return
    if kind in _MAPPINGS:
        for key, item in value.items():
            if type(key) not in _ATOMS:
                check_plain(key, f"{where}, key {key!r}")
            if type(item) not in _ATOMS:
                check_plain(item, f"{where}.{key}")
    elif kind in _SEQUENCES:
        for index, item in enumerate(value):
            if type(item) not in _ATOMS:
                check_plain(item, f"{where}[{index}]")
    else:
        raise UserError(
            f"{where}: a {kind.__module__}.{kind.__qualname__} cannot be stored in a checkpoint, which holds plain "
            "data only; store numbers, text, tensors, or lists and dicts of them"
        )


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk; does nothing if the system cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and moves it there once it is on the disk; reads plain data only.

    If writing fails, the previous file is kept. Hyperparameters are converted to plain data (paths become text and so
    on); everything else must be plain data already.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cleaned: set[Path] = set()

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to ``path``.

        Raises:
            UserError: a value in it is not plain data, or the file cannot be written; the message names it.
        """
        checkpoint = dict(checkpoint)
        for key in _HYPER_PARAMETERS:
            if key in checkpoint:
                checkpoint[key] = plain_data(checkpoint[key], key)
        checkpoint.pop("hparams_type", None)  # a class, and no longer true after plain_data
        check_plain(checkpoint)
        if "://" in str(path) or storage_options is not None:  # an object store's own upload is atomic
            super().save_checkpoint(dict(checkpoint), path, storage_options)
            return
        target = Path(path)
        temporary = temporary_beside(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.parent not in self._cleaned:
                remove_stale(target.parent)
                self._cleaned.add(target.parent)
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            cause = _write_error(error)
            if cause is None:
                raise
            kept = "; the previous file is kept" if target.exists() else ""
            raise UserError(f"{target}: cannot be written: {cause}{kept}") from error
        sync_folder(target.parent)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint, always with ``weights_only=True``.

        Raises:
            UserError: the file is not a complete checkpoint of plain data.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location=map_location, weights_only=True)
        return open_checkpoint(path, map_location=map_location)


def _write_error(error: BaseException | None) -> str | None:
    """Returns the system's error behind a failed write, if there is one; torch's writer hides it."""
    seen = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.strerror or str(seen)
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        return str(error).splitlines()[0]
    return None
