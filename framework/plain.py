"""Plain data: what a checkpoint may hold so that ``torch.load(weights_only=True)`` opens it."""

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


def plain_data(value: Any, where: str = "hyper_parameters") -> Any:
    """Turns paths, enums, numpy values, dataclasses, namespaces and classes into plain Python data.

    Raises:
        UserError: a value has no plain form; the message names its place.
    """
    if isinstance(value, Enum):
        return plain_data(value.value, where)
    if type(value) in _ATOMS or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, bool | int | float | str):  # subclasses of the atoms, such as a str that remembers its origin
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_data(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_data(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain_data(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "__dict__") and type(value).__name__ == "Namespace":
        return plain_data(vars(value), where)
    raise UserError(
        f"{where}: {type(value).__name__} cannot be stored in a checkpoint; give plain data or a class path"
    )
