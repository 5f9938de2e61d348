"""Plain data: what a checkpoint may hold so that ``torch.load(weights_only=True)`` opens it, or what JSON holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from framework.errors import UserError

_ATOMS = (str, int, float, complex, bool, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.Tensor)


def plain_data(value: Any, where: str = "hyper_parameters", strict: bool = True) -> Any:
    """Turns paths, enums, numpy values, dataclasses, namespaces and classes into plain Python data.

    Args:
        value: What to turn.
        where: Its place, for the message.
        strict: What a checkpoint may hold stays as it is, such as tensors and tuples, and what has no plain form is
            refused. Otherwise what JSON holds is made: lists of tuples and tensors, text of what has no plain form.

    Raises:
        UserError: a value has no plain form; the message names its place.
    """
    if isinstance(value, Enum):
        return plain_data(value.value, where, strict)
    if value is None or (strict and (type(value) in _ATOMS or isinstance(value, torch.Tensor))):
        return value
    if isinstance(value, bool | int | float | str):  # subclasses of the atoms, such as a str that remembers its origin
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if strict and isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif type(value).__name__ == "Namespace" and hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: plain_data(item, f"{where}.{key}", strict) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain_data(item, f"{where}[{i}]", strict) for i, item in enumerate(value)]
        return tuple(items) if strict and isinstance(value, tuple) else items
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if not strict:
        return str(value)
    raise UserError(
        f"{where}: {type(value).__name__} cannot be stored in a checkpoint; give plain data or a class path"
    )
