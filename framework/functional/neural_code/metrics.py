"""Redundancy ratio and purity as metrics of torchmetrics, which combine the processes of a training.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from framework.errors import UserError
from framework.functional.neural_code.codes import pack_bits
from framework.functional.neural_code.distinct import hash_codes, redundancy_ratio
from framework.settings import at_least


class RedundancyRatio(Metric):
    """RR = (n − m)/n of n examples with m distinct codes, over all updates and processes.

    Its state has 16 bytes for each example, whatever the length of the codes.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    hashes: list[Tensor]
    examples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hashes", default=[], dist_reduce_fx="cat")
        self.add_state("examples", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, codes: Tensor | np.ndarray) -> None:
        """Adds codes: bool (B, D), or packed uint8 (B, ⌈D/8⌉), as an array or a tensor.

        Raises:
            UserError: they are of another type.
        """
        codes = codes if isinstance(codes, Tensor) else torch.from_numpy(np.ascontiguousarray(codes))
        if codes.dtype not in (torch.bool, torch.uint8):
            raise UserError(f"codes: {codes.dtype} is not accepted; bits as bool, or packed ones as uint8")
        codes = pack_bits(codes) if codes.dtype == torch.bool else codes.cpu().numpy()
        self.examples += len(codes)
        # those of this update that occur twice count once; the others wait for compute
        found = np.unique(hash_codes(codes), axis=0)
        self.hashes.append(torch.from_numpy(found).to(self.device))

    def compute(self) -> Tensor:
        """Returns RR, float32."""
        distinct = len(torch.unique(dim_zero_cat(self.hashes), dim=0)) if len(self.hashes) else 0
        return torch.tensor(redundancy_ratio(int(self.examples), distinct))


class Purity(Metric):
    """Σ_k max_c n_kc / n: the accuracy when each cluster k is labelled with its most frequent class c.

    Args:
        clusters: Number of clusters.
        classes: Number of classes.
        **kwargs: Of torchmetrics' base class.

    Raises:
        UserError: a number is below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, clusters: int, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        at_least(1, clusters=clusters, classes=classes)
        self.clusters, self.classes = clusters, classes
        self.add_state("counts", default=torch.zeros(clusters, classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, clusters: Tensor, classes: Tensor) -> None:
        """Adds cluster and class (B,) of examples, from 0.

        Raises:
            UserError: one is below 0, or not below its number.
        """
        for name, found, count in (("clusters", clusters, self.clusters), ("classes", classes, self.classes)):
            if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < count:
                raise UserError(f"{name}: {int(found.min())} to {int(found.max())} is not accepted; 0 to {count - 1}")
        pairs = clusters.long() * self.classes + classes.long()
        self.counts += torch.bincount(pairs, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> Tensor:
        """Returns the purity, float32."""
        return self.counts.max(1).values.sum() / self.counts.sum()
