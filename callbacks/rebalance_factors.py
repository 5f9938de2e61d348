"""Rebalance factors: one step that gives a factor of a product equal singular values and keeps the product.

Paper: Xiong, Ding, Du, 2024, "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of
Symmetry and Initialization", ICLR, arXiv 2310.01769, Section 5.

Gradient descent on F Gᵀ with more columns than the matrix has rank converges at a rate of α², the scale of the
initialisation. When F Gᵀ is near the matrix, with the thin SVD F = Q S Bᵀ,

    F ← F B S⁻¹ β = β Q,   G ← G B S / β

keeps F Gᵀ (the paper changes one step of gradient descent; this form, which keeps the product, was derived for it), and
afterwards the rate is that of β², whatever α was. By default β is the square root of the r-th singular value of F Gᵀ,
so that F and G are balanced in the matrix's own directions. The optimiser is reset.

It works with techniques that do not change the factors' shapes. Limits: F Gᵀ must be near the matrix; with ``epoch:
null`` it is done at the first epoch at which the training loss is at most ``loss`` times that of a zero product and the
spectrum of each member's F Gᵀ has a gap of ``gap`` after the r-th singular value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from framework.editing import Context, Transform
from framework.errors import UserError
from framework.functional.low_rank import rebalance
from framework.protocols import HasFactors
from framework.settings import above, at_least, at_most


class RebalanceFactors(Transform):
    """Rebalances the factors of a module that has them (:class:`framework.protocols.HasFactors`), once.

    Args:
        epoch: Epoch before which it is done; ``null`` for the first with a small enough error.
        rank: Rank r of the matrix; by default the module's own.
        beta: β; by default the square root of the r-th singular value of F Gᵀ, for each member.
        loss: For ``epoch: null``: largest training loss, relative to that of a zero product.
        gap: For ``epoch: null``: smallest ratio of the r-th to the next singular value of F Gᵀ.

    Raises:
        UserError: a setting is not accepted; at the start, the module has no factors, or the epoch is never reached.
    """

    changes = frozenset({"values"})
    phase = "remap"
    optimizer = "reset"

    def __init__(
        self,
        epoch: int | None = None,
        rank: int | None = None,
        beta: float | None = None,
        loss: float = 1e-2,
        gap: float = 10.0,
    ) -> None:
        at_least(0, epoch=epoch)
        at_least(1, rank=rank)
        above(0, beta=beta, loss=loss, gap=gap)
        self.epoch, self.rank, self.beta, self.loss, self.gap = epoch, rank, beta, loss, gap

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without factors, and an epoch that is never reached.

        Raises:
            UserError: there are no factors, or the training ends before.
        """
        if not isinstance(model, HasFactors) or model.factors() is None:
            raise UserError(f"{self.name}: {type(model).__name__} has no two factors F, G of a product")
        last = getattr(context.trainer, "max_epochs", None)
        never = self.epoch is not None and last is not None and 0 <= last <= self.epoch
        if never and not getattr(context.trainer, "fast_dev_run", False):
            raise UserError(f"{self.name}.epoch: {self.epoch} is not reached, trainer.max_epochs is {last}")

    def due(self, context: Context) -> bool:
        """Returns true once, before its epoch or the first with a small enough error."""
        if context.at != "epoch" or any(plan.name == self.name for plan in context.plans):
            return False
        if self.epoch is not None:
            return context.epoch == self.epoch
        model: Any = getattr(context.trainer, "lightning_module", None)
        return context.epoch > 0 and model.relative_loss() < self.loss and self._gap(model) > self.gap

    def _spectrum(self, model: HasFactors) -> tuple[Tensor, int]:
        """Returns the singular values (…, min(n1, n2)) of F Gᵀ, and r.

        Raises:
            UserError: r is larger than the factors' width.
        """
        f, g = self._factors(model)
        rank = model.rank if self.rank is None else self.rank
        at_most({"the factors' width": f.shape[-1]}, **{f"{self.name}.rank": rank})
        return torch.linalg.svdvals(f.detach() @ g.detach().mT), rank

    def _factors(self, model: HasFactors) -> tuple[Tensor, Tensor]:
        factors = model.factors()
        assert factors is not None  # checked at the start
        return factors

    def _gap(self, model: HasFactors) -> float:
        """Returns the smallest ratio of the r-th to the next singular value; infinite if there is no next one."""
        values, rank = self._spectrum(model)
        if rank == self._factors(model)[0].shape[-1]:
            return float("inf")
        return float((values[..., rank - 1] / values[..., rank]).min())

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns β of each member."""
        values, rank = self._spectrum(cast(HasFactors, model))
        beta = values[..., rank - 1].sqrt()
        return {"beta": (torch.full_like(beta, self.beta) if self.beta is not None else beta).tolist()}

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Rebalances the factors."""
        f, g = self._factors(cast(HasFactors, model))
        with torch.no_grad():
            first, second = rebalance(f, g, torch.tensor(decision["beta"], dtype=f.dtype, device=f.device))
            f.copy_(first)
            g.copy_(second)


__all__ = ["RebalanceFactors"]
