"""Data held in memory as arrays, served a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        """The batch at ``indices``, collated: a tuple of tensors of shape ``(B, …)``."""
        rows = torch.as_tensor(indices)
        first, *rest = (t[rows] for t in self.tensors)
        if self.transform is not None:
            first = self.transform(first)
        return (first, *rest)
