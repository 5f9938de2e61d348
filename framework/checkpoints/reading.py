"""Reads checkpoint files without executing anything in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from framework.errors import UserError


def open_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint as plain data; weights that :func:`framework.export` compressed are expanded.

    Args:
        path: A checkpoint written by Lightning, by a run of this project or by a plain Trainer.
        map_location: Device of the tensors.
        mmap: Whether tensors are read only when they are used; faster if only other entries are needed.

    Returns:
        The checkpoint as a mapping, with ``state_dict`` and the other entries that Lightning saves.

    Raises:
        UserError: there is no such file, it is incomplete or not a checkpoint, or it holds more than plain data (which
            is not executed).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, a checkpoint file is needed" if path.is_dir() else "no such checkpoint file"
        raise UserError(f"{path}: {what}")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL\s+([\w.]+)", str(error)):
            raise UserError(
                f"{path}: refused: it holds more than plain data ({found[1].rstrip('.')}); nothing was executed"
            ) from None
        raise UserError(f"{path}: {_what_it_is(path)}") from None
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # torch can raise any error for wrong bytes
        raise UserError(f"{path}: {_what_it_is(path)}") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path}: not a Lightning checkpoint: it has no 'state_dict'")
    if "pytorch-lightning_version" not in checkpoint:
        raise UserError(f"{path}: not a Lightning checkpoint: it has no 'pytorch-lightning_version'")
    if "compressed" in checkpoint:
        from framework.checkpoints.container import expand

        return expand(checkpoint, path, map_location)
    return checkpoint


def _what_it_is(path: Path) -> str:
    size = path.stat().st_size
    if size == 0:
        return "not a checkpoint: the file is empty"
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" and not zipfile.is_zipfile(path):
        return f"not a whole checkpoint: it ends after {size} bytes, the rest is missing"
    return "not a checkpoint, or a damaged one"
