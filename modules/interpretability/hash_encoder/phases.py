"""Draws the phase chart of a sweep: the regimes over width and sample size, at several epochs.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490 (the
regimes; the paper gives no thresholds, the defaults are ours).

Run: ``python -m modules.interpretability.hash_encoder.phases sweeps/hash_phases``, with ``--under``, ``--sufficient``,
``--part`` and ``--epochs``. It reads each trial's ``neural_code.json`` and ``config.yaml`` and writes
``figures/phases.png`` into the sweep's folder. Seeds are averaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framework.config.yaml12 import load
from framework.errors import UserError
from framework.figures import save_figure
from framework.settings import at_least, at_most, between
from modules.interpretability.hash_encoder.plots import phase_figure


def read_trials(folder: Path, part: str = "val") -> dict[tuple[int, int, int], list[float]]:
    """Returns the redundancy ratios of a sweep's trials by width, number of samples and epoch, one for each seed.

    Args:
        folder: Folder of the sweep, or of runs.
        part: The part of the data whose ratio is read.

    Raises:
        UserError: no run in the folder has measured it.
    """
    found: dict[tuple[int, int, int], list[float]] = {}
    for file in sorted(folder.glob("**/neural_code.json")):
        config = load((file.parent / "config.yaml").read_text(encoding="utf-8"))
        width, samples = config["model"]["init_args"].get("width"), config["data"]["init_args"].get("samples")
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            ratio = row.get(f"{part}/redundancy_ratio")
            if ratio is not None and width is not None:
                count = samples if samples is not None else row["train/examples"]
                found.setdefault((width, count, row["epoch"]), []).append(ratio)
    if not found:
        raise UserError(f"{folder}: no run in it has a neural_code.json with {part}/redundancy_ratio")
    return found


def phase_maps(
    ratios: dict[tuple[int, int, int], list[float]], epochs: Sequence[int] | None = None
) -> tuple[dict[str, np.ndarray], list[int], list[int]]:
    """Returns maps of the mean ratio by title, their rows (sample sizes) and columns (widths).

    Args:
        ratios: As :func:`read_trials` returns them.
        epochs: Epochs to show; by default the first, the second, one in the middle and the last of those measured.

    Raises:
        UserError: an epoch was not measured.
    """
    known = sorted({epoch for _, _, epoch in ratios})
    chosen = sorted({known[0], known[min(1, len(known) - 1)], known[len(known) // 2], known[-1]})
    for epoch in epochs or ():
        if epoch not in known:
            raise UserError(f"epochs: {epoch} was not measured; accepted: {', '.join(map(str, known))}")
    widths, sizes = (sorted({key[index] for key in ratios}) for index in (0, 1))
    maps = {}
    for epoch in epochs or chosen:
        values = [[np.mean(ratios.get((width, size, epoch), [np.nan])) for width in widths] for size in sizes]
        maps[f"epoch {epoch}" if epoch else "at the start"] = np.array(values)
    return maps, sizes, widths


def draw_phases(
    folder: Path, part: str = "val", epochs: Sequence[int] | None = None, under: float = 0.5, sufficient: float = 0.01
) -> Path:
    """Draws the chart of a sweep and returns its path, ``<folder>/figures/phases.png``.

    Args:
        folder: Folder of the sweep.
        part: The part of the data whose ratio is drawn.
        epochs: Epochs to show; see :func:`phase_maps`.
        under: Redundancy ratio from which a network is under-expressive.
        sufficient: Ratio up to which it is sufficiently expressive.

    Raises:
        UserError: a threshold is not accepted, an epoch was not measured, or there are no runs.
    """
    between(0, 1, under=under)
    at_least(0, sufficient=sufficient)
    at_most({"under": under}, sufficient=sufficient)
    maps, sizes, widths = phase_maps(read_trials(folder, part), epochs)
    figure = phase_figure(maps, sizes, widths, ("width", "training samples"), under, sufficient)
    return save_figure(figure, folder / "figures" / "phases.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the chart of the folder on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the sweep")
    parser.add_argument("--under", type=float, default=0.5, help="redundancy ratio from which codes collapse")
    parser.add_argument("--sufficient", type=float, default=0.01, help="ratio up to which nearly each code is unique")
    parser.add_argument("--part", choices=("train", "val"), default="val", help="whose codes")
    parser.add_argument("--epochs", type=int, nargs="+", help="epochs to show")
    given = parser.parse_args(arguments)
    try:
        print(draw_phases(given.folder, given.part, given.epochs, given.under, given.sufficient))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
