"""Finds the buffers that a training step writes to: what it leaves there has no noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._C import _functorch as _transforms


class Buffers:
    """Watches the buffers of a module.

    The first step compares values, later ones those of buffers that a step has written to before; of the others they
    compare identities and torch's counts of writes, which costs next to nothing.

    Args:
        module: The module; its present buffers are watched.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (f"{prefix}.{name}" if prefix else name, part._buffers, name)
            for prefix, part in module.named_modules()
            for name, buffer in part._buffers.items()
            if buffer is not None and not buffer.is_inference()
        ]
        self._touched: set[str] | None = None  # in the first step all may be
        self._before: list[tuple[Tensor | None, int, Tensor | None]] = []

    def remember(self) -> None:
        """Keeps what the buffers are; call it before the step."""
        self._before = []
        for full, owner, name in self._places:
            held = owner.get(name)
            kept = None if held is None or (self._touched is not None and full not in self._touched) else held.clone()
            self._before.append((held, -1 if held is None else held._version, kept))

    def written(self) -> list[str]:
        """Returns the names of those that the step has changed; call it after the step."""
        found, touched = [], set()
        for (full, owner, name), (before, version, kept) in zip(self._places, self._before, strict=True):
            after = owner.get(name)
            untouched = before is None or before._version == version
            if after is before and untouched:
                continue
            touched.add(full)
            if after is not None and _transforms.is_functorch_wrapped_tensor(after):
                after = _plain(after)
                owner[name] = before if after is None else after
            if _differ(kept if kept is not None else before if untouched else None, after):
                found.append(full)
        self._touched, self._before = touched | (self._touched or set()), []
        return found


def _plain(tensor: Tensor) -> Tensor | None:
    """Returns the tensor outside torch.func's transforms; ``None`` for one that vmap made of several samples."""
    while _transforms.is_functorch_wrapped_tensor(tensor):
        if _transforms.is_batchedtensor(tensor):
            return None
        tensor = _transforms.get_unwrapped(tensor)
    return tensor


def _differ(before: Tensor | None, after: Tensor | None) -> bool:
    """Whether two have other values where both have any: a table that only became longer holds nothing new."""
    if before is None or after is None or before.ndim != after.ndim:
        return True
    common = tuple(slice(min(sizes)) for sizes in zip(before.shape, after.shape, strict=True))
    return not before.numel() or not torch.equal(before[common], after[common])
