"""How unique codes are: a count of distinct ones by hashes of 128 bits, which needs no code in memory.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from framework.errors import UserError


def hash_codes(packed: np.ndarray) -> np.ndarray:
    """Returns BLAKE2b hashes of 128 bits of packed codes uint8 (N, bytes): int64 (N, 2).

    For a million different codes the probability that any two have the same hash is below 1e-26.
    """
    rows = np.ascontiguousarray(packed)
    digests = b"".join(blake2b(row, digest_size=16).digest() for row in rows)
    return np.frombuffer(digests, "<i8").reshape(len(rows), 2)


def redundancy_ratio(examples: int, distinct: int) -> float:
    """Returns RR = (n − m)/n, with n examples and m distinct codes.

    Raises:
        UserError: there are no examples, or more codes than examples.
    """
    if not 0 < distinct <= examples:
        raise UserError(f"distinct: {distinct} is not accepted; from 1 to {examples} (examples)")
    return (examples - distinct) / examples


class DistinctCodes:
    """Counts distinct codes as they come: 16 bytes for each distinct one, whatever their length.

    Attributes:
        examples: n, the number of codes so far.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._seen: set[bytes] = set()

    def update(self, packed: np.ndarray) -> None:
        """Adds packed codes (N, bytes)."""
        rows = np.ascontiguousarray(packed)
        self.examples += len(rows)
        self._seen.update(blake2b(row, digest_size=16).digest() for row in rows)

    @property
    def distinct(self) -> int:
        """m, the number of distinct codes so far."""
        return len(self._seen)

    @property
    def ratio(self) -> float:
        """The redundancy ratio so far."""
        return redundancy_ratio(self.examples, self.distinct)
