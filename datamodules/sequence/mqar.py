"""MQAR: multi-query associative recall, where the values of keys must be recalled later in the sequence.

Paper: Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models", arXiv 2312.04927.

A sequence of T tokens starts with P distinct pairs ``k v k v …``, keys from 1 … V/2 − 1, values from V/2 … V − 1. After
them each key is queried once: of the (T − 2P)/2 slots of two tokens, P are chosen without replacement with probability
∝ a·j^(a−1), so that short distances are more frequent (a = 0.01), and the first token of the i-th chosen slot is pair
i's key, where its value must be predicted. All other tokens are random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.data.seeding import mix
from framework.settings import above, at_least, at_most, multiple_of


def mqar_batch(
    generator: torch.Generator, samples: int, length: int, vocab_size: int, pairs: int, alpha: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Draws sequences.

    Args:
        generator: Source of randomness.
        samples: B, number of sequences.
        length: T, even.
        vocab_size: V, even.
        pairs: P, pairs of a key and its value, at most T/4 and less than V/2.
        alpha: a, exponent of the power law of distances.

    Returns:
        Tokens (B, T) int64, and targets (B, T): the value at each query, -100 elsewhere.
    """
    half, slots = vocab_size // 2, (length - 2 * pairs) // 2
    keys = 1 + torch.rand(samples, half - 1, generator=generator).topk(pairs, 1).indices
    values = half + torch.rand(samples, vocab_size - half, generator=generator).topk(pairs, 1).indices
    weights = alpha * torch.arange(1, slots + 1, dtype=torch.float64) ** (alpha - 1)
    chosen = torch.multinomial(weights.expand(samples, slots), pairs, generator=generator)
    inputs = torch.randint(vocab_size, (samples, length), generator=generator)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    places = 2 * pairs + 2 * chosen
    targets = torch.full_like(inputs, -100)
    return inputs.scatter_(1, places, keys), targets.scatter_(1, places, values)


class Mqar(DataModule):
    """Multi-query associative recall, generated.

    Batches are mappings with ``input_ids`` and ``targets``, int64 ``(B, T)``.

    Reads: nothing; it is generated: multi-query associative recall.

    Args:
        vocab_size: V, even.
        length: T, even.
        pairs: P.
        alpha: Power law of the distances between a pair and its query.
        train_samples: Training sequences.
        eval_samples: Sequences of the validation, and of the test.
        data_seed: Seed of the sequences.
        batch_size: Sequences in a training batch.
        eval_batch_size: Sequences in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Raises:
        UserError: the sizes do not fit each other.
    """

    def __init__(
        self,
        vocab_size: int = 8192,
        length: int = 64,
        pairs: int = 4,
        alpha: float = 0.01,
        train_samples: int = 20000,
        eval_samples: int = 1000,
        data_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        at_least(1, train_samples=train_samples, eval_samples=eval_samples)
        multiple_of(2, length=length, vocab_size=vocab_size)
        at_least(1, pairs=pairs)
        at_most({"length / 4": length // 4}, pairs=pairs)
        above({"twice the pairs": 2 * pairs}, vocab_size=vocab_size)
        above(0, alpha=alpha)
        self.vocab_size, self.length, self.pairs, self.alpha = vocab_size, length, pairs, alpha
        self.train_samples, self.eval_samples, self.data_seed = train_samples, eval_samples, data_seed

    def setup(self, stage: str) -> None:
        """Generates all sequences, once."""
        if self.train_set is not None:
            return
        counts = (self.train_samples, self.eval_samples, self.eval_samples)
        sets = []
        for part, samples in enumerate(counts):
            generator = torch.Generator().manual_seed(mix(self.data_seed, part))
            inputs, targets = mqar_batch(generator, samples, self.length, self.vocab_size, self.pairs, self.alpha)
            sets.append(NamedArrays(input_ids=inputs.int(), targets=targets.int()))
        self.train_set, self.val_set, self.test_set = sets
