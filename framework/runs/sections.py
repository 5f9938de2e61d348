"""The sections of a config, and the class of each."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from framework.runs.folder import RunConfig
from framework.tracking.wandb_run import WandbConfig

GROUPS: dict[str, type] = {"run": RunConfig, "wandb": WandbConfig}


BASES: dict[str, type] = {"model": pl.LightningModule, "data": pl.LightningDataModule, "techniques": Callback}
