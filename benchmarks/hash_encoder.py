"""Neural codes: packed codes against bytes, and nearest neighbours by popcount against scikit-learn.

Run: ``python benchmarks/hash_encoder.py``, one thread. Memory is the most that numpy holds at once for the codes of a
network of 100,000 ReLUs; the tensors of one batch, which both need, come on top. The distances of both searches are
compared and equal.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _rows import Row, duration, report
from _timing import quietest
from torch import nn

from framework.claims import at_most
from framework.functional.neural_code import CodeReader, hamming_counts, knn_classes, neural_codes

EXAMPLES, BITS, BATCH = 3000, 100_000, 64
TRAIN, QUERIES, NEIGHBOURS = 1000, 200, 9


def held(call: Callable[[], object]) -> int:
    """Returns the most bytes that numpy holds at once during a call."""
    tracemalloc.start()
    call()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def as_bytes(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """Returns codes as int8, one byte for each bit."""
    reader = CodeReader(model, x)
    found = np.empty((len(x), BITS), np.int8)
    for start in range(0, len(x), BATCH):
        found[start : start + BATCH] = reader(x[start : start + BATCH]).numpy()
    return found


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, BITS), nn.ReLU()), torch.randn(EXAMPLES, 16)
    neural_codes(model, x[:2])  # what is imported in the first call is no memory of the codes
    ours = held(lambda: neural_codes(model, x, batch_size=BATCH))
    peer = held(lambda: as_bytes(model, x))
    text = f"packed codes of {EXAMPLES:,} examples, {BITS:,} bits"
    yield Row(text, "the same as int8", ours / peer, f"{peer / 1e6:.0f} MB", at_most(0.13), unit="memory")

    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (TRAIN + QUERIES, BITS), dtype=np.uint8)
    labels = rng.integers(0, 10, TRAIN)
    packed = np.packbits(bits, axis=1)
    known, asked = packed[:TRAIN], packed[TRAIN:]
    peers = KNeighborsClassifier(NEIGHBOURS, metric="hamming", algorithm="brute").fit(bits[:TRAIN], labels)
    found: dict[str, np.ndarray] = {}

    def search() -> None:
        found["ours"] = knn_classes(known, labels, asked, BITS, NEIGHBOURS)

    def search_peer() -> None:
        found["peer"] = peers.predict(bits[TRAIN:])

    (our_time,) = quietest([search], 5, 1)
    (peer_time,) = quietest([search_peer], 1)
    distances = np.sort(hamming_counts(asked, known) / BITS, axis=1)[:, :NEIGHBOURS]
    assert np.array_equal(distances, peers.kneighbors(bits[TRAIN:])[0])
    assert np.array_equal(found["ours"], found["peer"])
    text = f"{NEIGHBOURS} neighbours of {QUERIES} codes among {TRAIN:,}, {BITS:,} bits"
    yield Row(text, "scikit-learn, brute, Hamming", our_time / peer_time, duration(peer_time), at_most(0.2))


if __name__ == "__main__":
    report(__file__, __doc__, rows)
