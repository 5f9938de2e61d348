"""Counting distinct codes by hashes against numpy, and what the redundancy ratio does not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from framework.errors import UserError
from framework.functional.neural_code import DistinctCodes, VaryingColumns, hash_codes, redundancy_ratio, unpack_bits


def counted(bits, parts=1):
    found = DistinctCodes()
    for part in np.array_split(np.packbits(bits, axis=1), parts):
        found.update(part)
    return found


def test_hashes_count_as_unique_does_and_what_does_not_change_the_ratio():
    """Check 4: 20,000 random codes of 500 bits, with constant columns and repeated rows."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (20_000, 500), dtype=np.uint8)
    bits[:, ::5] = rng.integers(0, 2, 100, dtype=np.uint8)
    bits[rng.permutation(20_000)[:6000]] = bits[rng.integers(0, 20_000, 6000)]
    distinct = len(np.unique(np.packbits(bits, axis=1), axis=0))
    whole = counted(bits, parts=7)
    assert (whole.examples, whole.distinct) == (20_000, distinct)
    assert len(np.unique(hash_codes(np.packbits(bits, axis=1)), axis=0)) == distinct
    assert 0.1 < whole.ratio < 0.5
    columns = VaryingColumns(500)
    columns.update(np.packbits(bits, axis=1))
    assert columns.mask().sum() == 400
    pruned = unpack_bits(np.packbits(bits, axis=1), 500, columns.mask())
    for other in (pruned, bits[:, rng.permutation(500)], 1 - bits, bits[rng.permutation(20_000)]):
        assert counted(other).ratio == whole.ratio


def test_long_codes_leave_nothing_in_memory():
    found, rng = DistinctCodes(), np.random.default_rng(0)
    for _ in range(3):
        block = rng.integers(0, 256, (50, 12_500), dtype=np.uint8)
        found.update(np.concatenate([block, block[:10]]))
    assert (found.examples, found.distinct) == (180, 150)
    assert all(len(code) == 16 for code in found._seen)


def test_the_ratio():
    assert redundancy_ratio(10, 10) == 0
    assert redundancy_ratio(10, 1) == 0.9
    for pair in ((0, 0), (3, 4), (3, 0)):
        with pytest.raises(UserError, match="distinct"):
            redundancy_ratio(*pair)
