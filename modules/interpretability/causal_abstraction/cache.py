"""Hidden states of a frozen host, computed once for each of a data set's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class HiddenCache:
    """Rows of tensors by index, filled as they are first needed.

    Args:
        lengths: Number of rows of each tensor, by name.
        limit: Bytes that all may take together; a tensor that does not fit is computed each time.
    """

    def __init__(self, lengths: Mapping[str, int], limit: float) -> None:
        self.lengths, self.limit = dict(lengths), limit
        self.held: dict[str, Tensor | None] = {}
        self.filled: dict[str, Tensor] = {}
        self.complete: set[str] = set()

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(value.numel() * value.element_size() for value in self.held.values() if value is not None)

    def fits(self, name: str) -> bool:
        """Whether a tensor is kept, or was not seen yet."""
        return name not in self.held or self.held[name] is not None

    def refuse(self, name: str) -> None:
        """Keeps a tensor no longer."""
        self.held[name] = None

    def get(self, name: str, index: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the rows at ``index``, of which only those are computed that are not known.

        Args:
            name: Which tensor.
            index: (n,) int64.
            compute: Given which of the n rows, a mask (n,), makes them.
        """
        if name in self.complete:
            return self._rows(name, index)
        if name not in self.held:
            found = compute(torch.ones_like(index, dtype=torch.bool))
            shape = (self.lengths[name], *found.shape[1:])
            fits = self.size + found.element_size() * torch.Size(shape).numel() <= self.limit
            self.held[name] = found.new_empty(shape) if fits else None
            self.filled[name] = torch.zeros(shape[0], dtype=torch.bool, device=found.device)
            self._store(name, index, found)
            return found
        if self.held[name] is None:
            return compute(torch.ones_like(index, dtype=torch.bool))
        new = ~self.filled[name][index]
        if bool(new.any()):
            self._store(name, index[new], compute(new))
        return self._rows(name, index)

    def _rows(self, name: str, index: Tensor) -> Tensor:
        held = self.held[name]
        assert held is not None
        return held.index_select(0, index)

    def _store(self, name: str, index: Tensor, found: Tensor) -> None:
        held = self.held[name]
        if held is None:
            return
        held[index] = found
        self.filled[name][index] = True
        if bool(self.filled[name].all()):
            self.complete.add(name)
