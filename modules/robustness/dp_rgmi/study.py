"""The table over privacy budgets and starts: one row for each trained checkpoint, and how its numbers are associated.

Paper: Tayebi Arasteh et al. 2026, arXiv 2603.01098.

Run: ``python -m modules.robustness.dp_rgmi.study sweeps/dp_rgmi``, or with any folder of runs. It reads each run's
``utilization_gap.json``, ``representation_geometry.json`` and ``config.yaml``, and writes ``dp_rgmi.csv``,
``associations.csv`` and ``figures/``: AUROC and gap over epsilon, displacement and effective dimension, spectra, and
associations. Runs that were measured on other resamples are refused: their numbers cannot be paired.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from framework.config.yaml12 import load
from framework.errors import UserError
from framework.figures import save_figure
from framework.files import write_text
from framework.functional.resampling import resample_indices
from framework.observing.diagnostics import NOTE
from framework.readers.text import read_text
from modules.robustness.dp_rgmi.plots import association_figure, budget_figure, geometry_figure, spectra_figure

COLUMNS = (
    "start",
    "privacy",
    "seed",
    "end_to_end",
    "probe",
    "gap",
    "gap_low",
    "gap_high",
    "probe_at_start",
    "displacement",
    "effective_dimension",
    "effective_dimension_at_start",
    "folder",
)
REPORTS = ("utilization_gap", "representation_geometry")
NUMBERS = ("end_to_end", "probe", "gap", "displacement", "effective_dimension")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and its diagnostics.

    Attributes:
        start: Its initialisation.
        privacy: ``none``, ``clipped`` (no noise), or epsilon.
        epsilon: Infinite for the first two.
        seed: Of the run.
        end_to_end: Macro AUROC of the network.
        probe: Macro AUROC of a probe on its embeddings.
        gap: Their difference, G.
        gap_low: Lower end of its 95 % interval.
        gap_high: Upper end.
        probe_at_start: Macro AUROC of a probe on the embeddings before training.
        displacement: Δ.
        effective_dimension: d.
        effective_dimension_at_start: d before training.
        spectrum: Eigenvalues of the covariance, descending.
        resamples: Hash of the bootstrap's resamples.
        folder: Of the run.
    """

    start: str
    privacy: str
    epsilon: float
    seed: int
    end_to_end: float
    probe: float
    gap: float
    gap_low: float
    gap_high: float
    probe_at_start: float
    displacement: float
    effective_dimension: float
    effective_dimension_at_start: float
    spectrum: tuple[float, ...] = field(repr=False, default=())
    resamples: str = field(repr=False, default="")
    folder: str = ""


def _report(file: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(read_text(file))["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a report of a training: {type(error).__name__}: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: not a report of a training: it has no rows")
    return rows


def _privacy(technique: Mapping[str, Any] | None) -> tuple[str, float]:
    """The label of a budget, and epsilon."""
    settings = (technique or {}).get("init_args") or {}
    if not technique:
        return "none", math.inf
    if settings.get("noise_multiplier") == 0:
        return "clipped", math.inf
    if settings.get("epsilon") is None:
        return f"sigma {settings.get('noise_multiplier')}", math.nan
    return f"{settings['epsilon']:g}", float(settings["epsilon"])


def _start(config: Mapping[str, Any]) -> str:
    weights = config["model"]["init_args"].get("weights")
    if weights:
        return Path(weights).stem
    public = str((config["data"].get("init_args") or {}).get("public", "none"))
    return "random" if public == "none" or not config["model"]["init_args"].get("pretrain_epochs", 1) else public


def read_checkpoint(folder: Path) -> Checkpoint:
    """Returns the checkpoint of a run's folder.

    Raises:
        UserError: a report is missing or broken.
    """
    gap, geometry = (_report(folder / f"{name}.json") for name in REPORTS)
    config = load(read_text(folder / "config.yaml"))
    privacy, epsilon = _privacy((config.get("techniques") or {}).get("dp_sgd"))
    try:
        first, last, moved = gap[0], gap[-1], geometry[-1]
        if last["bootstrap"]["sha256"] != moved["bootstrap"]["sha256"]:
            raise UserError(f"{folder}: utilization_gap and representation_geometry were measured on other resamples")
        interval = last["intervals"]["gap"]
        return Checkpoint(
            _start(config),
            privacy,
            epsilon,
            int(config.get("seed_everything") or 0),
            _number(last["end_to_end"]),
            _number(last["probe"]),
            _number(last["gap"]),
            _number(interval["low"]),
            _number(interval["high"]),
            _number(first["probe"]) if first["epoch"] == 0 else math.nan,
            _number(moved.get("displacement")),
            _number(moved["effective_dimension"]),
            _number(geometry[0]["effective_dimension"]) if geometry[0]["epoch"] == 0 else math.nan,
            tuple(moved.get("eigenvalues", ())),
            last["bootstrap"]["sha256"],
            str(folder),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}: its reports lack {error}") from error


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def read_checkpoints(folder: Path) -> list[Checkpoint]:
    """Returns the checkpoints of all runs in a folder, by start, budget and seed.

    A run that has not ended, so that one of its two reports is missing, is named and left out.

    Raises:
        UserError: there is none, a report is broken, or runs were measured on different resamples.
    """
    runs = sorted({file.parent for name in REPORTS for file in folder.glob(f"**/{name}.json")})
    found = []
    for run in runs:
        missing = [f"{name}.json" for name in REPORTS if not (run / f"{name}.json").exists()]
        if missing:
            print(f"left out: {run} has no {missing[0]}", file=sys.stderr)
        else:
            found.append(read_checkpoint(run))
    if not found and not runs:
        raise UserError(f"{folder}: no run in it has a utilization_gap.json")
    if not found:
        raise UserError(f"{folder}: no run in it has both {' and '.join(f'{name}.json' for name in REPORTS)}")
    for other in found[1:]:
        if other.resamples != found[0].resamples:
            raise UserError(
                f"{other.folder}: measured on other resamples than {found[0].folder}; they cannot be paired"
            )
    return sorted(found, key=lambda c: (c.start, *_order(c), c.seed))


def _order(checkpoint: Checkpoint) -> tuple[int, float]:
    rank = {"none": 0, "clipped": 1}.get(checkpoint.privacy, 2)
    return rank, -checkpoint.epsilon if math.isfinite(checkpoint.epsilon) else 0.0


@dataclass(frozen=True)
class Association:
    """How a number varies with the AUROC over checkpoints.

    Attributes:
        name: The number.
        spearman: Rank correlation.
        spearman_interval: Its 95 % interval over resamples of the checkpoints.
        pearson: Linear correlation.
        pearson_interval: The same.
    """

    name: str
    spearman: float
    spearman_interval: tuple[float, float]
    pearson: float
    pearson_interval: tuple[float, float]


def associations(
    checkpoints: Sequence[Checkpoint], names: Sequence[str] = ("gap", "displacement", "effective_dimension")
) -> list[Association]:
    """Returns the correlation of each number with ``end_to_end`` over checkpoints; NaN for fewer than three.

    A checkpoint in which one of the two is not finite, because its training diverged, is left out.

    Args:
        checkpoints: One or more.
        names: Attributes of a checkpoint.
    """
    found = []
    for name in names:
        both = np.array([(c.end_to_end, getattr(c, name)) for c in checkpoints])
        u, values = both[np.isfinite(both).all(1)].T
        rows = resample_indices(len(u)) if len(u) else np.empty((1, 0), int)
        pairs = [(_ranked(u[r], values[r]), _linear(u[r], values[r])) for r in rows]
        ends = [_ends(np.array(column)) for column in zip(*pairs, strict=True)]
        found.append(Association(name, _ranked(u, values), ends[0], _linear(u, values), ends[1]))
    return found


def _ends(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def _linear(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else math.nan


def _ranked(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    return _linear(rankdata(a), rankdata(b))


def write_study(folder: Path, checkpoints: Sequence[Checkpoint]) -> list[Path]:
    """Writes the tables and figures of checkpoints into a folder, and returns the figures' paths."""
    rows = [[_shown(getattr(c, name)) for name in COLUMNS] for c in checkpoints]
    write_text(folder / "dp_rgmi.csv", _csv([COLUMNS, *rows]))
    found = associations(checkpoints)
    header = ("number", "spearman", "low", "high", "pearson", "low", "high")
    lines = [[a.name, *map(_shown, (a.spearman, *a.spearman_interval, a.pearson, *a.pearson_interval))] for a in found]
    write_text(folder / "associations.csv", _csv([header, *lines]))
    figures = {
        "budgets": budget_figure(checkpoints),
        "geometry": geometry_figure(checkpoints),
        "spectra": spectra_figure(checkpoints),
        "associations": association_figure(checkpoints, NUMBERS),
    }
    return [save_figure(figure, folder / "figures" / f"{name}.png") for name, figure in figures.items()]


def _shown(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) and math.isfinite(value) else value


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the study of the folder on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the sweep, or of runs")
    given = parser.parse_args(arguments)
    try:
        figures = write_study(given.folder, read_checkpoints(given.folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((given.folder / "dp_rgmi.csv").read_text(encoding="utf-8"), end="")
    print((given.folder / "associations.csv").read_text(encoding="utf-8"), end="")
    print(*figures, NOTE, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
