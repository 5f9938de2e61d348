"""Reads the offline W&B runs in a run folder."""

from __future__ import annotations

from pathlib import Path

from framework.tracking.wandb_file import WandbFile, read


def offline_runs(folder: str | Path) -> list[WandbFile]:
    """All offline runs in ``wandb`` of a run folder, in the order of their making."""
    return [read(path) for path in sorted(Path(folder).glob("wandb/offline-run-*/*.wandb"))]
