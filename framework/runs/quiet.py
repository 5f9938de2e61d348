"""Suppresses output of Lightning that a run does not need."""

from __future__ import annotations

import logging
import warnings

_NOISE = ("GPU available", "TPU available", "HPU available", "💡 Tip", "Seed set to", "Restor", "Loading `train_d")


def _worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip().startswith(_NOISE)


def quiet_lightning() -> None:
    """Suppresses Lightning's lines about missing hardware, its tips, and the seed, which is in the run's record."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).addFilter(_worth_reading)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    for message in (
        "Checkpoint directory .* exists",
        "The number of training batches",
        "Be aware that when using `ckpt_path`",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
