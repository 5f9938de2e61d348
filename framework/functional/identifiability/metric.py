"""The mean correlation coefficient as a metric of torchmetrics."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from framework.functional.identifiability.matching import Correlation, mean_corr_coef
from framework.settings import one_of


class MeanCorrCoef(Metric):
    """The mean correlation coefficient of latents and their estimates (:func:`mean_corr_coef`), over all batches.

    torchmetrics' own coefficient of a similar abbreviation is that of Matthews.

    Args:
        correlation: ``pearson`` or ``spearman``.
        **kwargs: Of torchmetrics.

    Raises:
        UserError: the correlation is not known.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    z_true: list[Tensor]
    z_hat: list[Tensor]

    def __init__(self, correlation: Correlation = "pearson", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        one_of(get_args(Correlation), correlation=correlation)
        self.correlation = correlation
        self.add_state("z_true", default=[], dist_reduce_fx="cat")
        self.add_state("z_hat", default=[], dist_reduce_fx="cat")

    def update(self, z_true: Tensor, z_hat: Tensor) -> None:
        """Adds a batch.

        Args:
            z_true: True latents (B, d).
            z_hat: Estimates (B, e).
        """
        self.z_true.append(z_true.detach())
        self.z_hat.append(z_hat.detach())

    def compute(self) -> Tensor:
        """Returns the coefficient."""
        true, hat = (dim_zero_cat(part).double().cpu().numpy() for part in (self.z_true, self.z_hat))
        return torch.tensor(mean_corr_coef(true, hat, self.correlation))
