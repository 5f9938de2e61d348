"""Converts values to plain data: types that ``torch.load(weights_only=True)`` accepts, or types of JSON."""

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
        value: The value.
        where: Its key, for the message.
        strict: Whether to keep types that a checkpoint may hold, such as tensors and tuples, and to refuse values
            without a plain form. Otherwise the result has JSON's types: tuples and tensors become lists, values without
            a plain form text.

    Raises:
        UserError: a value has no plain form; the message names its key.
    """
    if isinstance(value, Enum):
        return plain_data(value.value, where, strict)
    if value is None or (strict and (type(value) in _ATOMS or isinstance(value, torch.Tensor))):
        return value
    if isinstance(value, bool | int | float | str):  # also of subclasses, such as a str with extra attributes
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
