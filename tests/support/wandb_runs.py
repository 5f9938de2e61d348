"""What W&B recorded in a run folder without a connection."""

from __future__ import annotations

from pathlib import Path

from framework.tracking.wandb_file import WandbFile, read


def offline_runs(folder: str | Path) -> list[WandbFile]:
    """All offline runs in ``wandb`` of a run folder, in the order of their making."""
    return [read(path) for path in sorted(Path(folder).glob("wandb/offline-run-*/*.wandb"))]
