"""Weight penalty: adds a norm of chosen weights to the training loss of any module.

The objective is the loss plus ``weight`` times

- ``l2``: ½ Σ w², whose gradient is w: under plain SGD the same as ``weight_decay`` of the same size, under Adam not
  (AdamW's decay goes past the moments, a penalty goes through them);
- ``l1``: Σ |w|, a pull of the same size on every weight;
- ``group``: Σ ‖W‖₂ over the tensors W, which pulls whole tensors to zero (the group lasso without its sizes).

Which weights: the trainable ones that ``include`` and ``exclude`` choose, tied ones once, including biases and norms
unless they are excluded. With LoRA these are the adapters only.

Logs what is added as ``train/weight_penalty``; ``train/loss`` stays without it. It keeps no state. Cost: reads the
weights once and writes a gradient of each. Limits: an L1 penalty under a gradient method leaves weights near 0, not at
0; one device or ``ddp``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Captured, Penalty, trained_parameters
from framework.settings import one_of

Norm = Literal["l2", "l1", "group"]


def weight_norm(tensors: Iterable[Tensor], norm: Norm = "l2") -> Tensor:
    """½ Σ w², Σ |w| or Σ ‖W‖₂, a scalar in float32 or wider; 0 without tensors.

    Args:
        tensors: The weights, each once, on one device.
        norm: ``l2``, ``l1`` or ``group``.

    Raises:
        UserError: the norm is not known.
    """
    one_of(get_args(Norm), norm=norm)
    parts = [_part(tensor.to(torch.promote_types(tensor.dtype, torch.float32)), norm) for tensor in tensors]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _part(tensor: Tensor, norm: Norm) -> Tensor:
    if norm == "l2":
        return tensor.square().sum() / 2
    return tensor.abs().sum() if norm == "l1" else torch.linalg.vector_norm(tensor)


class WeightPenalty(Penalty):
    """Adds a norm of chosen weights to the training loss.

    Args:
        weight: Factor of the norm in the loss, 0 or more.
        norm: ``l2`` (½ Σ w²), ``l1`` (Σ |w|) or ``group`` (Σ ‖W‖₂ over the tensors).
        include: Patterns of parameter names (``*`` and ``?`` as in a shell); all for ``None``.
        exclude: Patterns of parameter names to leave out.

    Raises:
        UserError: a setting is not accepted (in the constructor); no chosen parameter is trained, or a pattern matches
            nothing (before training).
    """

    technique = "weight_penalty"

    def __init__(
        self,
        weight: float = 1e-4,
        norm: Norm = "l2",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
    ) -> None:
        super().__init__(weight)
        one_of(get_args(Norm), norm=norm)
        self.norm, self.include, self.exclude = norm, include, exclude
        self._chosen: list[nn.Parameter] = []

    def look_up(self, module: pl.LightningModule) -> None:
        """Chooses the weights."""
        self._chosen = trained_parameters(module, self.include, self.exclude, f"techniques.{self.name}")

    def penalty(self, module: pl.LightningModule, batch: Any, outputs: Any, captured: Captured) -> Tensor:
        """Returns the norm of the chosen weights that are trained now."""
        return weight_norm((weight for weight in self._chosen if weight.requires_grad), self.norm)
