"""Every combination of the values of some concepts, without any input."""

from __future__ import annotations

import numpy as np
import torch

from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.settings import at_least


class ConceptGrid(WholeData):
    """Labels ``labels`` int64 (C, k): all n^k combinations, or so many different random ones; each batch has all.

    Reads: nothing; the grid is made.

    Args:
        concepts: k.
        values: n, the number of values of each.
        max_combinations: Largest number of combinations.
        seed: Seed of the draw where there are more.
        passes: Batches in an epoch.

    Raises:
        UserError: a number is not accepted.
    """

    def __init__(
        self, concepts: int = 2, values: int = 2, max_combinations: int = 100_000, seed: int = 0, passes: int = 100
    ) -> None:
        super().__init__(batch_size=1)
        at_least(1, concepts=concepts, max_combinations=max_combinations, passes=passes)
        at_least(2, values=values)
        self.concepts, self.values, self.max_combinations = concepts, values, max_combinations
        self.seed, self.passes = seed, passes

    def setup(self, stage: str | None = None) -> None:
        """Makes the labels."""
        total = self.values**self.concepts
        if total <= self.max_combinations:
            labels = np.indices((self.values,) * self.concepts).reshape(self.concepts, -1).T
        else:
            draw = np.random.default_rng(self.seed)
            found = np.empty((0, self.concepts), np.int64)
            while len(found) < self.max_combinations:
                more = draw.integers(0, self.values, (self.max_combinations, self.concepts))
                found = np.unique(np.concatenate([found, more]), axis=0)
            labels = found[np.sort(draw.permutation(len(found))[: self.max_combinations])]
        self.train_set = WholeBatch({"labels": torch.from_numpy(np.ascontiguousarray(labels)).long()}, self.passes)
