"""Points of a mixture of Gaussians with one covariance, the simulation of Zheng et al. 2023."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.functional.linear_heads import draw_subset
from framework.functional.linear_heads.mixture import Kind, MixtureLaw
from framework.settings import at_least

ALL = 100_000


class GaussianMixture(DataModule):
    """Serves points (B, n) float64 and classes (B,) of :class:`framework.functional.linear_heads.mixture.MixtureLaw`.

    Reads: nothing; it is generated: Gaussian classes.

    Args:
        num_classes: K.
        features: n, even.
        kind: ``easy`` (independent coordinates) or ``hard``.
        samples: m, number of training samples, which contain every class.
        pool: Number of points from which the m are drawn, equally many of each class; by default 100 n, as in the
            paper.
        val_samples: Points for validation.
        test_samples: Points for the test, equally many of each class.
        seed: Seed of all draws.
        batch_size: Number of points in a training batch; the default is all of them.
        eval_batch_size: Points in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        law: The distribution of points.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        num_classes: int = 2,
        features: int = 100,
        kind: Kind = "easy",
        samples: int | None = None,
        pool: int | None = None,
        val_samples: int = 1000,
        test_samples: int = 10_000,
        seed: int = 0,
        batch_size: int = ALL,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, samples=samples)
        self.law = MixtureLaw(num_classes, features, kind)
        self.num_classes, self.features = num_classes, features
        self.pool = 100 * features if pool is None else pool
        least = {"num_classes": num_classes}
        at_least(least, pool=self.pool, val_samples=val_samples, test_samples=test_samples)
        self.samples, self.val_samples, self.test_samples, self.seed = samples, val_samples, test_samples, seed

    def setup(self, stage: str | None = None) -> None:
        """Draws, once."""
        if self.train_set is not None:
            return
        generator = torch.Generator().manual_seed(self.seed)
        x, y = self._drawn(self.pool, generator)
        if self.samples is not None:
            rows = draw_subset(y, self.samples, self.num_classes, generator)
            x, y = x[rows], y[rows]
        self.train_set = ArrayDataset(x, y)
        self.val_set = ArrayDataset(*self._drawn(self.val_samples, generator))
        self.test_set = ArrayDataset(*self._drawn(self.test_samples, generator))

    def _drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.arange(self.num_classes).repeat_interleave(count // self.num_classes)
        return self.law.sample(labels, generator), labels
