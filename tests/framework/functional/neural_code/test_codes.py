"""Packing, columns that vary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from framework.functional.neural_code import VaryingColumns, pack_bits, unpack_bits
from framework.functional.neural_code.codes import packed_by_torch


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 77])
def test_packing_is_numpys(width):
    bits = torch.rand(13, width, generator=torch.Generator().manual_seed(0)) < 0.4
    packed = pack_bits(bits)
    assert np.array_equal(packed, np.packbits(bits.numpy(), axis=1))
    assert np.array_equal(unpack_bits(packed, width), bits.numpy())
    columns = np.arange(width) % 3 == 0
    assert np.array_equal(unpack_bits(packed, width, columns), bits.numpy()[:, columns])
    assert np.array_equal(packed_by_torch(bits), packed)  # what runs on other devices


def test_columns_that_vary():
    rng = np.random.default_rng(0)
    bits = (rng.random((50, 21)) < rng.choice([0, 0.02, 0.5, 0.98, 1], 21)).astype(np.uint8)
    found = VaryingColumns(21)
    found.update(np.packbits(bits[:0], axis=1))
    for part in np.array_split(bits, 4):
        found.update(np.packbits(part, axis=1))
    assert np.array_equal(found.mask(), bits.min(0) != bits.max(0))
    assert 0 < found.mask().sum() < 21
