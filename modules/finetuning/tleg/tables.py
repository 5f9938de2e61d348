"""Tables for the run folder: the numbers stored for models of many depths."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.files import written
from framework.functional.learngene import LearngeneTensors


def storage_rows(learngene: LearngeneTensors, depths: Sequence[int]) -> list[dict[str, Any]]:
    """Numbers stored for a model of each depth, for all models up to it, and for the learngene that replaces them.

    Args:
        learngene: The learngene.
        depths: Depths in the order of the rows.

    Returns:
        Rows with ``depth``, ``model`` (numbers in a model of that depth), ``models`` (in all so far), ``learngene`` and
        ``ratio`` (of the last two).
    """
    rows, total = [], 0
    for depth in depths:
        model = learngene.parameters_at(depth)
        total += model
        ratio = total / learngene.parameters
        rows.append(
            {"depth": depth, "model": model, "models": total, "learngene": learngene.parameters, "ratio": ratio}
        )
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with equal keys as CSV; creates the folder."""
    with written(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
