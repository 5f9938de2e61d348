"""Addition modulo a prime: all prompts (x, y, =), a share of them for training (arXiv 2506.12284)."""

from __future__ import annotations

import torch

from datamodules.interpretability.repeated import RepeatedData
from framework.errors import UserError
from framework.settings import at_least, between


class ModularAddition(RepeatedData):
    """x + y modulo p: tokens (x, y, p) with the class of the sum.

    Batches are ``(tokens, y)``: int64 (B, 3) and int64 (B,); the first two tokens are numbers. Validation measures the
    other pairs, and the training pairs.

    Reads: nothing.

    Args:
        modulus: p; the token p is ``=``.
        train_fraction: Share of the p² pairs that are trained on.
        split_seed: Seed of the split.
        batch_size: Pairs in a training batch; all for 0, as the authors'.
        passes: Passes over the pairs in an epoch of the Trainer; validation comes after it.

    Attributes:
        num_classes: p.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        modulus: int = 113,
        train_fraction: float = 0.3,
        split_seed: int = 0,
        batch_size: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size, passes)
        at_least(2, modulus=modulus)
        between(0, 1, "()", train_fraction=train_fraction)
        if not 0 < int(train_fraction * modulus**2) < modulus**2:
            raise UserError(f"train_fraction: {train_fraction} leaves no pairs of {modulus**2} for one part")
        self.modulus, self.train_fraction, self.split_seed = modulus, train_fraction, split_seed
        self.num_classes = modulus

    def setup(self, stage: str | None = None) -> None:
        """Draws the split, once."""
        if self.train_set is not None:
            return
        p = self.modulus
        pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        tokens = torch.cat([pairs, torch.full((p * p, 1), p)], 1)
        y = pairs.sum(1) % p
        order = torch.randperm(p * p, generator=torch.Generator().manual_seed(self.split_seed))
        train, test = order.tensor_split([int(self.train_fraction * p * p)])
        self.hold((tokens[train], y[train]), (tokens[test], y[test]))
