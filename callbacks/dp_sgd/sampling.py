"""Random draws of DP-SGD: which samples are in a batch (Poisson sampling), and the noise.

Both are functions of a secret of 128 bits and of a position, so that a resumed run draws what it would have drawn. They
come from numpy's Philox, a counter-based generator: torch's CPU generator keeps 32 bits of a seed, which can be tried
one by one.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.dp_sgd.batches import rows, size_of
from framework.data.loader import ExactLoader, _Seeded
from framework.data.seeding import mix

_DRAW, _NOISE, _AGAIN, _STEP = 2, 3, 4, 5


def new_secret() -> int:
    """Returns 128 random bits from the operating system."""
    return secrets.randbits(128)


def again(secret: int, steps: int) -> int:
    """Returns the secret of a further training of weights that took ``steps`` steps with this one."""
    low, high = np.random.SeedSequence([secret, _AGAIN, steps]).generate_state(2, np.uint64)
    return int(high) << 64 | int(low)


def seed_of_step(secret: int, step: int, rank: int) -> int:
    """Returns the seed of what a step draws from the global generators, such as dropout: 63 bits.

    Args:
        secret: Seed of all draws, up to 128 bits.
        step: Number of the step.
        rank: Number of the process.
    """
    return int(np.random.SeedSequence([secret, _STEP, step, rank]).generate_state(1, np.uint64)[0]) >> 1


def generator(secret: int, *position: int) -> np.random.Generator:
    """Returns the generator for a position."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([secret, *position])))


def gaussian(secret: int, step: int, count: int) -> Tensor:
    """Returns the noise of a step.

    Args:
        secret: Seed of all noise, up to 128 bits.
        step: Number of the step.
        count: Number of values.

    Returns:
        Independent values of N(0, 1), float32 (count,).
    """
    return torch.from_numpy(generator(secret, _NOISE, step).standard_normal(count, dtype=np.float32))


class PoissonLoader(ExactLoader):
    """Batches in which each sample is with probability q, independently of the others and of other batches.

    An epoch has round(1/q) batches; their sizes vary, and a batch may be empty: then its tensors have length 0. With
    several ranks the draw is the same on all, and each rank gets every n-th of the drawn samples.

    Args:
        dataset: A map-style data set.
        batch_size: Expected number of samples in a batch, per rank; q = batch_size · ranks / samples, at most 1.
        secret: Seed of the draws, up to 128 bits; it must be the same on all ranks.
        **kwargs: As for :class:`~framework.data.loader.ExactLoader`; ``shuffle`` and ``drop_last`` mean nothing here.

    Attributes:
        stand_in: The sample that was read for the last empty batch, as a batch of one; ``None`` before that.
    """

    def __init__(self, dataset: Any, batch_size: int, secret: int, **kwargs: Any) -> None:
        super().__init__(dataset, batch_size, shuffle=True, seed=0, **kwargs)
        self.secret = secret
        self.stand_in: Any = None
        self._empty: set[int] = set()

    def read(self, indices: list[int], seed: int = 0) -> Any:
        """Returns some samples as one batch, as an epoch would."""
        return _Seeded(self.dataset, self.collate_fn, True, restore=True).__getitems__((seed, indices))

    @property
    def rate(self) -> float:
        """q."""
        return min(1.0, self.batch_size * self.ranks()[0] / len(self.dataset))

    def __len__(self) -> int:
        return max(1, round(len(self.dataset) / (self.batch_size * self.ranks()[0])))

    def drawn(self, position: int) -> Tensor:
        """Returns the indices of the samples in a batch of this pass, of all ranks together."""
        draw = generator(self.secret, _DRAW, self.epoch, self.lap, position)
        return torch.from_numpy(np.flatnonzero(draw.random(len(self.dataset)) < self.rate))

    def requests(self, start: int) -> Iterator[tuple[int, Tensor]]:
        """Yields ``(seed, indices)`` of each batch of this pass, from batch ``start``; sample 0 for an empty one."""
        world, rank = self.ranks()
        base = mix(self.secret, self.secret >> 64, self.epoch, self.lap, 1)
        self._empty = set()
        for position in range(start, len(self)):
            own = self.drawn(position)[rank::world]
            if not len(own):
                self._empty.add(position)
                own = torch.zeros(1, dtype=torch.int64)
            yield mix(base, position * world + rank), own

    def _here(self, source: Any, start: int) -> Iterator[Any]:
        return self._emptied(super()._here(source, start), start)

    def _workers(self, source: Any, start: int) -> Iterator[Any]:
        return self._emptied(super()._workers(source, start), start)

    def _emptied(self, batches: Iterator[Any], start: int) -> Iterator[Any]:
        for position, batch in enumerate(batches, start):
            if position in self._empty:
                self.stand_in = batch
                batch = rows(batch, 0, 0, size_of(batch))
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Returns the loader's position and secret."""
        return super().state_dict() | {"secret": self.secret}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resumes at the position of :meth:`state_dict`, with its secret."""
        super().load_state_dict(state)
        self.secret = state.get("secret", self.secret)
