"""Batches of any container as samples: their number, some of them, and their tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from framework.errors import UserError


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Returns a batch with ``function`` applied to each tensor and to each list of text or numbers.

    Args:
        value: The batch: tensors in tuples, lists, mappings and dataclasses; other objects are kept.
        function: Gets a tensor, or a list that has one entry per sample.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        items = {key: mapped(item, function) for key, item in value.items()}
        if type(value) is dict:
            return items
        changed: Any = copy.copy(value)
        for key, item in items.items():
            changed[key] = item
        return changed
    if isinstance(value, list | tuple):
        if _is_column(value):
            return function(value)
        members = [mapped(item, function) for item in value]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    if is_dataclass(value) and not isinstance(value, type):
        held: Any = value
        return replace(held, **{f.name: mapped(getattr(held, f.name), function) for f in fields(held) if f.init})
    return value


def _is_column(value: Any) -> bool:
    return bool(value) and all(isinstance(item, str | bytes | int | float) for item in value)


def tensors_of(batch: Any) -> list[Tensor]:
    """Returns the tensors of a batch, in a fixed order."""
    found: list[Tensor] = []
    mapped(batch, lambda item: found.append(item) if isinstance(item, Tensor) else None)
    return found


def has_columns(batch: Any, size: int) -> bool:
    """Whether the batch has a list of text or numbers with an entry for each sample."""
    found: list[Any] = []
    mapped(batch, lambda item: found.append(item) if not isinstance(item, Tensor) and len(item) == size else None)
    return bool(found)


def shared_by(batch: Any, size: int) -> list[Any]:
    """Returns what a batch has once for all its samples: numbers, tensors without a dimension, other lists."""
    if isinstance(batch, Tensor):
        return [] if batch.ndim else [batch.item()]
    if isinstance(batch, int | float):
        return [batch]
    if isinstance(batch, list | tuple) and _is_column(batch):
        return [] if len(batch) == size else list(batch)
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = list(batch)
    elif is_dataclass(batch) and not isinstance(batch, type):
        parts = [getattr(batch, f.name) for f in fields(batch) if f.init]
    else:
        parts = []
    return [found for part in parts for found in shared_by(part, size)]


def with_tensors(batch: Any, tensors: list[Tensor]) -> Any:
    """Returns the batch with other tensors, in the order of :func:`tensors_of`."""
    left = iter(tensors)
    return mapped(batch, lambda item: next(left) if isinstance(item, Tensor) else item)


def size_of(batch: Any) -> int:
    """Returns the number of samples: the common length of all tensors that have a dimension.

    Raises:
        UserError: there is no tensor, or they differ in length.
    """
    found = tensors_of(batch)
    sizes = {len(tensor) for tensor in found if tensor.ndim}
    if len(sizes) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found) or f"a {type(batch).__name__} without tensors"
        raise UserError(
            f"dp_sgd: a batch of {shapes} cannot be split into samples; batches of tensors with the samples along "
            "their first dimension are accepted"
        )
    return sizes.pop()


def rows(batch: Any, start: int, end: int, size: int) -> Any:
    """Returns some samples of a batch, as a batch.

    Args:
        batch: The batch.
        start: Number of the first sample.
        end: Number after that of the last one.
        size: Number of samples of the batch.
    """

    def part(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item[start:end] if item.ndim else item
        return item[start:end] if len(item) == size else item

    return mapped(batch, part)
