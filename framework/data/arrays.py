"""Data sets held in memory as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


class ArrayDataset(Dataset):
    """Tensors indexed together along their first dimension; a batch is one indexing operation, not one per sample.

    Args:
        tensors: Tensors of equal length N.
        transform: Applied to the first tensor of each batch, shape ``(B, …)``; may draw random numbers.

    Raises:
        ValueError: the lengths differ.
    """

    def __init__(self, *tensors: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        if not tensors or any(len(t) != len(tensors[0]) for t in tensors):
            raise ValueError(f"tensors of equal length are needed, got lengths {[len(t) for t in tensors]}")
        self.tensors = tensors
        self.transform = transform

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(t[0] for t in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Returns the batch at ``indices``, collated: a tuple of tensors of shape ``(B, …)``."""
        rows = torch.as_tensor(indices)
        first, *rest = (t[rows] for t in self.tensors)
        if self.transform is not None:
            first = self.transform(first)
        return (first, *rest)


class NamedArrays(Dataset):
    """Tensors by name, indexed together along their first dimension; a batch is a mapping of those names.

    Args:
        **tensors: Tensors of equal length N; integers are returned as int64, even if they are stored in a smaller type.

    Raises:
        ValueError: the lengths differ.
    """

    draws_random_numbers = False

    def __init__(self, **tensors: Tensor) -> None:
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"tensors of equal length are needed, got lengths {lengths}")
        self.tensors = tensors
        self.length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Returns the batch at ``indices``: tensors of shape ``(B, …)``."""
        rows = torch.as_tensor(indices)
        batch = {name: tensor[rows] for name, tensor in self.tensors.items()}
        return {name: value if value.is_floating_point() else value.long() for name, value in batch.items()}


class WholeBatch(Dataset):
    """A data set of one batch with all samples, which is returned ``passes`` times without copying.

    Args:
        batch: The batch: tensors in any container.
        passes: Number of batches per epoch.
    """

    def __init__(self, batch: Any, passes: int = 1) -> None:
        self.batch, self.passes = batch, passes

    def __len__(self) -> int:
        return self.passes

    def __getitem__(self, index: int) -> Any:
        return self.batch

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Returns the whole batch."""
        return self.batch
