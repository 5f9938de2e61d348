"""RF8: evaluates with weights rounded to 8 bits, and logs the rounding error.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486, versions 1 to 3).

While validating, testing or predicting, each weight w is q = a + b: a the power of two nearest to w in the logarithm, b
the one nearest to w − a if it is at least a sixteenth of a (see :mod:`framework.functional.compression.rf8`). Training
continues with the original weights, which are restored exactly, also if the evaluation fails.

Logs ``rf8/sqnr``, the ratio of signal to rounding noise in dB: 28.0 for a generalised Gaussian of any shape. The
largest relative error of a weight is 10.8 %.

Chosen weights: matrices and larger tensors; norms and biases are not rounded, as in an export (``python -m framework
export``). With EMA the averaged weights are rounded. Checkpoints have the original weights.

Cost: a copy of the weights, and about five times the time of making it, for each evaluation. Limits: one device or
``ddp``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Writer, matrices
from framework.functional.compression.rate import sqnr
from framework.functional.compression.rf8 import round_to_rf8


@torch.no_grad()
def rf8_(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rounds tensors to RF8 in place.

    Args:
        tensors: Tensors by name; the names are for messages.

    Returns:
        Copies of the original values.

    Raises:
        UserError: a tensor holds NaN or infinity; the message names it, and no tensor is changed.
    """
    rounded = {name: round_to_rf8(tensor, name) for name, tensor in tensors.items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        tensor.copy_(rounded[name])
    return before


@torch.no_grad()
def put_back(tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
    """Undoes :func:`rf8_` exactly."""
    for name, tensor in tensors.items():
        tensor.copy_(before[name])


@contextlib.contextmanager
def in_rf8(model: nn.Module, include: list[str] | None = None, exclude: list[str] | None = None) -> Iterator[float]:
    """A context manager in which the model's weights are rounded to RF8; yields the SQNR in dB.

    Args:
        model: The model; rounded in place, and restored.
        include: Patterns of parameter names; all matrices and larger tensors for ``None``.
        exclude: Patterns of parameter names to leave out.

    Raises:
        UserError: there is no such tensor, or a pattern matches nothing.
    """
    tensors = matrices(model, include, exclude, "rf8.include")
    before = rf8_(tensors)
    try:
        yield sqnr(before.values(), tensors.values())
    finally:
        put_back(tensors, before)


class RF8(Writer):
    """Evaluates with weights rounded to RF8.

    Args:
        include: Patterns of parameter names (``*`` and ``?`` as in a shell); ``None`` for all with at least two
            dimensions.
        exclude: Patterns of parameter names to leave out.

    Raises:
        UserError: nothing is found, or a pattern matches nothing; a tensor holds NaN or infinity (in an evaluation);
            the strategy shards the weights.
    """

    technique = "rf8"
    phase = "update"

    def __init__(self, include: list[str] | None = None, exclude: list[str] | None = None) -> None:
        self.include, self.exclude = include, exclude
        self._held: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        self._sqnr = 0.0

    def _round(self, module: nn.Module) -> None:
        """Rounds before the first batch, when other techniques have changed the weights for the evaluation."""
        if self._held is None:
            tensors = matrices(module, self.include, self.exclude, "rf8.include")
            self._held = (tensors, rf8_(tensors))
            self._sqnr = sqnr(self._held[1].values(), tensors.values())

    def _restore(self) -> None:
        if self._held is not None:
            (tensors, before), self._held = self._held, None
            put_back(tensors, before)

    def _restore_after_last(self, batches: Sequence[float], batch_idx: int, dataloader_idx: int) -> None:
        """Restores after the last batch of the last loader, or at the epoch's end if that is not known."""
        if dataloader_idx == len(batches) - 1 and batch_idx + 1 == batches[-1]:
            self._restore()

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Rounds the weights."""
        self._round(pl_module)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Rounds the weights."""
        self._round(pl_module)

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Rounds the weights."""
        self._round(pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Restores the weights after the last batch."""
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._restore_after_last(batches, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Restores the weights after the last batch."""
        self._restore_after_last(trainer.num_test_batches, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the weights and logs."""
        self._restore()
        pl_module.log("rf8/sqnr", self._sqnr, rank_zero_only=True)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the weights and logs."""
        self._restore()
        pl_module.log("rf8/sqnr", self._sqnr, rank_zero_only=True)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restores the weights."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the weights if an evaluation fails."""
        self._restore()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restores the weights."""
        self._restore()
