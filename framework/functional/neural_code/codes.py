"""Codes in memory: eight bits to a byte, and the columns that vary.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.neural_code.capture import CodeLayer, CodeReader, Space
from framework.settings import at_least

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def pack_bits(bits: Tensor) -> Bytes:
    """Packs bool (N, D), on any device, to bytes uint8 (N, ⌈D/8⌉), as ``numpy.packbits`` does along the rows."""
    if bits.device.type == "cpu":
        return np.packbits(bits.numpy(), axis=1)
    return packed_by_torch(bits).cpu().numpy()


def packed_by_torch(bits: Tensor) -> Tensor:
    """Returns the same as a tensor on the device of ``bits``, so that an eighth is transferred."""
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(len(bits), -1, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
    return (padded * weights).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Bytes, bits: int, columns: np.ndarray | None = None) -> Bytes:
    """Returns the bits of codes, uint8 (N, D) or, of some columns, (N, d).

    Args:
        packed: (N, ⌈D/8⌉).
        bits: D.
        columns: Which columns to return, bool (D,); all by default.
    """
    if columns is None:
        return np.unpackbits(packed, axis=1, count=bits)
    rows = max(1, (1 << 26) // max(bits, 1))  # the unpacked codes of a part of the examples at a time
    found = np.empty((len(packed), int(columns.sum())), np.uint8)
    for start in range(0, len(packed), rows):
        part = slice(start, start + rows)
        found[part] = np.unpackbits(packed[part], axis=1, count=bits)[:, columns]
    return found


class VaryingColumns:
    """Finds the columns of codes that are neither always 0 nor always 1, from parts of the codes.

    Args:
        bits: D.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.ones = np.zeros(-(-bits // 8), np.uint8)
        self.zeros = np.zeros(-(-bits // 8), np.uint8)

    def update(self, packed: Bytes) -> None:
        """Adds codes (N, ⌈D/8⌉)."""
        if len(packed):
            self.ones |= np.bitwise_or.reduce(packed, axis=0)
            self.zeros |= ~np.bitwise_and.reduce(packed, axis=0)

    def mask(self) -> np.ndarray:
        """Returns which columns vary, bool (D,)."""
        return np.unpackbits(self.ones & self.zeros, count=self.bits).astype(bool)


@dataclass(frozen=True)
class Codes:
    """Codes of some examples.

    Attributes:
        packed: uint8 (N, ⌈D/8⌉).
        layers: The layers, input side first.
        kind: ``neural_code``, or ``sign_code`` for activations other than ReLU.
    """

    packed: Bytes
    layers: tuple[CodeLayer, ...]
    kind: str

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def bits(self) -> int:
        """D."""
        return sum(layer.bits for layer in self.layers)

    def unpacked(self) -> Bytes:
        """Returns uint8 (N, D)."""
        return unpack_bits(self.packed, self.bits)

    def of_layer(self, index: int) -> Codes:
        """Returns the codes of one layer alone."""
        start = sum(layer.bits for layer in self.layers[:index])
        part = self.unpacked()[:, start : start + self.layers[index].bits]
        return Codes(np.packbits(part, axis=1), (self.layers[index],), self.kind)


def neural_codes(
    model: nn.Module,
    x: Tensor,
    layers: Sequence[str] | None = None,
    space: Space = "each",
    batch_size: int = 256,
    key: str = "layers",
) -> Codes:
    """Returns the codes of inputs, packed; the model is called in ``eval`` mode, and its modes are restored.

    All batches have the same size, the last one filled up with its last example: in another size floating-point sums
    may be in another order, and a number that is nearly 0 may have another sign.

    Args:
        model: The model.
        x: Inputs (N, …), on any device.
        layers: See :class:`~framework.functional.neural_code.capture.CodeReader`.
        space: See there.
        batch_size: Examples in a batch.
        key: The setting with the layers, for messages.

    Raises:
        UserError: there are no inputs, or no such layers.
    """
    at_least(1, batch_size=batch_size)
    if not len(x):
        raise UserError(f"{key}: there are no examples whose codes could be read")
    reader = CodeReader(model, x, layers, space, key)
    packed = np.empty((len(x), -(-reader.bits // 8)), np.uint8)
    for start in range(0, len(x), batch_size):
        rows = torch.arange(start, start + batch_size).clamp(max=len(x) - 1).to(x.device)
        part = packed[start : start + batch_size]
        part[:] = pack_bits(reader(x[rows]))[: len(part)]
    return Codes(packed, reader.layers, reader.kind)
