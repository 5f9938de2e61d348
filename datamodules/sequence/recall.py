"""Recall of fused pairs, a test of a matrix memory's capacity: key and value are in one token.

A sequence of 2 P tokens: P writes, each of a key with its value, then P queries of these keys in another order.
The keys of a sequence are distinct; values are drawn with replacement. A write of key a and value b is the token ``a V
+ b``, a query for key a the token ``K V + a``. To measure the memory alone, a model embeds each token as the sum of
embeddings of the key, the value and the kind. Training sequences are new in every epoch; validation and test are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.data.seeding import mix
from framework.settings import at_least, at_most


def recall_batch(
    samples: int, pairs: int = 32, keys: int = 64, values: int = 64, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draws sequences.

    Args:
        samples: B, number of sequences.
        pairs: P, at most K.
        keys: K.
        values: V.
        generator: Source of randomness; torch's global one by default.

    Returns:
        Tokens (B, 2 P) int64 below ``K V + K``, and targets (B, 2 P): the value of each query, -100 at the writes.
    """
    written = torch.rand(samples, keys, generator=generator).topk(pairs, 1).indices
    held = torch.randint(values, (samples, pairs), generator=generator)
    order = torch.rand(samples, pairs, generator=generator).argsort(1)
    tokens = torch.cat([written * values + held, keys * values + written.gather(1, order)], 1)
    return tokens, torch.cat([torch.full_like(held, -100), held.gather(1, order)], 1)


class FreshPairs(Dataset):
    """Sequences drawn when they are read, from torch's global generator, which the loader seeds for each batch.

    Args:
        samples: Number of samples in an epoch.
        pairs: P.
        keys: K.
        values: V.
    """

    draws_random_numbers = True

    def __init__(self, samples: int, pairs: int, keys: int, values: int) -> None:
        self.samples, self.sizes = samples, (pairs, keys, values)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Returns as many sequences as there are indices."""
        tokens, targets = recall_batch(len(indices), *self.sizes)
        return {"input_ids": tokens, "targets": targets}


class Recall(DataModule):
    """Recall of fused pairs, generated.

    Batches are mappings with ``input_ids`` and ``targets``, int64 ``(B, 2 P)``; see the module's docstring.

    Reads: nothing; it is generated: recall of pairs.

    Args:
        pairs: P, number of writes, and of queries, in a sequence.
        keys: K, at least P.
        values: V.
        train_samples: Sequences in an epoch, new ones each time.
        eval_samples: Sequences of the validation, and of the test.
        data_seed: Seed of the validation and test sequences.
        batch_size: Sequences in a training batch.
        eval_batch_size: Sequences in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        vocab_size: K V + K.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(
        self,
        pairs: int = 32,
        keys: int = 64,
        values: int = 64,
        train_samples: int = 128000,
        eval_samples: int = 2000,
        data_seed: int = 0,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        at_most({"keys": keys}, pairs=pairs)
        at_least(1, pairs=pairs, values=values, train_samples=train_samples, eval_samples=eval_samples)
        self.pairs, self.keys, self.values, self.data_seed = pairs, keys, values, data_seed
        self.train_samples, self.eval_samples = train_samples, eval_samples
        self.vocab_size = keys * values + keys

    def setup(self, stage: str) -> None:
        """Draws the validation and test sequences, once."""
        if self.train_set is not None:
            return
        sizes = (self.pairs, self.keys, self.values)
        self.train_set = FreshPairs(self.train_samples, *sizes)
        fixed = []
        for part in range(2):
            generator = torch.Generator().manual_seed(mix(self.data_seed, part))
            tokens, targets = recall_batch(self.eval_samples, *sizes, generator=generator)
            fixed.append(NamedArrays(input_ids=tokens.int(), targets=targets.int()))
        self.val_set, self.test_set = fixed

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns ``3=17`` for a write of value 17 under key 3, ``3?`` for its query."""
        pairs = self.keys * self.values
        words = [f"{t // self.values}={t % self.values}" if t < pairs else f"{t - pairs}?" for t in tokens]
        return " ".join(words)
