"""The scores as metrics of torchmetrics, which combine batches and processes.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from framework.functional.linear_factors.factors import Factors, Recovery, recover_factors
from framework.functional.linear_factors.geometry import (
    effective_ranks,
    linearity_r2,
    orthogonality,
    projected_r2,
    whitened_r2,
)


class _OfEmbeddings(Metric):
    """Keeps embeddings (B, d) and labels (B, k) of all updates."""

    is_differentiable = False
    full_state_update = False
    z: list[Tensor]
    labels: list[Tensor]

    def __init__(self, method: Recovery = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.method: Recovery = method
        self.add_state("z", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, z: Tensor, labels: Tensor) -> None:
        """Adds embeddings (B, d) and labels (B, k) or (B,)."""
        self.z.append(z.detach())
        self.labels.append(labels.detach().reshape(len(labels), -1))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all embeddings and labels."""
        return dim_zero_cat(self.z).double().cpu().numpy(), dim_zero_cat(self.labels).cpu().numpy()

    def factors(self) -> Factors:
        """Returns the factors of all embeddings."""
        return recover_factors(*self.arrays(), self.method)


class LinearFactorisationR2(_OfEmbeddings):
    """R² of sums of factors, :func:`~framework.functional.linear_factors.linearity_r2`.

    Args:
        weights: Rows of the probes (m, d) in whose span it is measured; by default the whole space.
        whiten: Whether embeddings are whitened.
        method: As in :func:`~framework.functional.linear_factors.recover_factors`.
        **kwargs: Of torchmetrics.
    """

    higher_is_better = True

    def __init__(
        self, weights: Tensor | None = None, whiten: bool = False, method: Recovery = "auto", **kwargs: Any
    ) -> None:
        super().__init__(method, **kwargs)
        self.weights = None if weights is None else weights.detach().double().cpu().numpy()
        self.whiten = whiten

    def compute(self) -> Tensor:
        """Returns R²."""
        z, labels = self.arrays()
        if self.whiten:
            return torch.tensor(whitened_r2(z, labels, self.weights, self.method))
        if self.weights is None:
            return torch.tensor(linearity_r2(z, labels, self.method))
        return torch.tensor(projected_r2(z, labels, self.weights, self.method))


class ConceptOrthogonality(_OfEmbeddings):
    """Mean |cos| (k, k) between and within concepts, :func:`~framework.functional.linear_factors.orthogonality`.

    Args:
        method: As in :func:`~framework.functional.linear_factors.recover_factors`.
        **kwargs: Of torchmetrics.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Returns the matrix."""
        return torch.from_numpy(orthogonality(self.factors()))


class EffectiveRank95(_OfEmbeddings):
    """k95 (k,) of each concept, :func:`~framework.functional.linear_factors.effective_ranks`.

    Args:
        method: As in :func:`~framework.functional.linear_factors.recover_factors`.
        **kwargs: Of torchmetrics.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """Returns the ranks."""
        return torch.tensor(effective_ranks(self.factors()))
