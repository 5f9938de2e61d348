"""Rate transfer: the scores of a model, without retraining, when its input is sampled more coarsely.

A continuous-time sequence model (S4D, Gu et al. 2022, arXiv 2206.11893) adapts to a new sampling rate by scaling its
step size Δ. Every validation or test batch is also evaluated on each r-th sample with Δ times r; the scores are logged
as ``test/rate_<r>/accuracy`` and so on, in addition to those at the full rate.

Works on any module with the method ``metrics_at_rate`` (:class:`framework.protocols.RateTransferable`). It does not
change the model. Cost: 1/r of an evaluation for each rate. Dropping samples causes aliasing of frequencies above the
new Nyquist frequency.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.protocols import RateTransferable
from framework.settings import at_least, multiple_of, not_empty, one_of

Stage = Literal["val", "test"]


class RateTransfer(Observer):
    """Evaluates also on coarser inputs.

    Args:
        rates: Factors r: every r-th sample is used and Δ is multiplied by r; each 2 or more.
        stages: ``test``, ``val`` or both.

    Raises:
        UserError: a setting is not accepted; at the start, the module cannot change its rate.
    """

    def __init__(self, rates: tuple[int, ...] = (2,), stages: tuple[Stage, ...] = ("test",)) -> None:
        not_empty(rates=rates)
        self.rates, self.stages = tuple(rates), tuple(stages)
        at_least(2, rates=self.rates)
        multiple_of(1, rates=self.rates)
        one_of(get_args(Stage), stages=self.stages)

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot change its rate.

        Raises:
            UserError: it has no ``metrics_at_rate``.
        """
        if not isinstance(model, RateTransferable):
            raise UserError(
                f"rate_transfer: {type(model).__name__} cannot change its sampling rate "
                "(it lacks the method metrics_at_rate)"
            )

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluates the batch at each rate."""
        self._evaluate(pl_module, batch, "val")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Evaluates the batch at each rate."""
        self._evaluate(pl_module, batch, "test")

    @torch.no_grad()
    def _evaluate(self, pl_module: pl.LightningModule, batch: Any, stage: str) -> None:
        if stage not in self.stages:
            return
        assert isinstance(pl_module, RateTransferable)
        for rate in self.rates:
            for name, value in pl_module.metrics_at_rate(batch, rate).items():
                pl_module.log(
                    f"{stage}/rate_{rate}/{name}",
                    value,
                    on_step=False,
                    on_epoch=True,
                    sync_dist=True,
                    batch_size=len(batch[0]),
                )
