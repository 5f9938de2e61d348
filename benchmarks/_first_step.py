"""Ends the process at the first training step, for timing what comes before it."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback


class ExitAtFirstStep(Callback):
    """Leaves without any tear-down."""

    def on_train_batch_start(self, *args: Any) -> None:
        """The model is built, the data is read, the first batch is there."""
        os._exit(0)
