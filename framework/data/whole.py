"""A datamodule in which every batch has all of the data."""

from __future__ import annotations

import lightning.pytorch as pl

from framework.data.module import DataModule


class WholeData(DataModule):
    """A :class:`DataModule` without validation, for training sets that are one batch (``WholeBatch``).

    Lightning treats an overridden loader as existing, and would warn about modules without a validation step.
    """

    val_dataloader = pl.LightningDataModule.val_dataloader


__all__ = ["WholeData"]
