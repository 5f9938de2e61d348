"""Reads weights from a local file without executing anything, and compares them with a model's, by tensor."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")


def read_weights_file(path: str | Path, key: str = "weights") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a state dict: ``.safetensors``, or what ``torch.save`` wrote, opened with ``weights_only=True``.

    A state dict inside a checkpoint (under ``state_dict``, ``model``, …; the averaged one first, as timm does) is
    extracted. Weights that :func:`framework.export` compressed are expanded.

    Args:
        path: The file.
        key: The setting that named it, for messages.

    Returns:
        The tensors by name, and the checkpoint that contains them (empty if there is none).

    Raises:
        UserError: the file is missing, is not of its format, or does not hold tensors by name.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{key}: {path} not found; expected a local file, .pth, .pt, .ckpt or .safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{key}: {path} holds more than tensors and plain data, or is broken: {error}") from error
    except Exception as error:  # safetensors and zip have their own error types
        raise UserError(f"{key}: {path} cannot be read: {error}") from error
    around: dict[str, Any] = {}
    if isinstance(content, dict) and isinstance(content.get("compressed"), dict):
        from framework.checkpoints.container import expand

        content = expand(content, f"{key}: {path}")
    if isinstance(content, Mapping):
        inner = next((content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is not None:
            around, content = dict(content), inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{key}: {path} is not a state dict (tensors by name), nor a checkpoint with one inside")
    return {str(name): value for name, value in content.items()}, around


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file's bytes, as hexadecimal digits."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
