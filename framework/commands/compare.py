"""``compare``: compares runs over seeds, from the files in their folders."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.commands.options import CommandParser
from framework.config.yaml12 import load
from framework.errors import UserError

_IGNORED = ("seed_everything", "run.", "wandb.", "trainer.default_root_dir")


@dataclass
class FinishedRun:
    """One run folder.

    Attributes:
        folder: Its path.
        config: The resolved config, flattened to dotted keys.
        series: Maps each metric's name to its ``(step, value)`` pairs.
    """

    folder: Path
    config: dict[str, Any]
    series: dict[str, list[tuple[int, float]]]

    @property
    def seed(self) -> Any:
        """The global seed."""
        return self.config.get("seed_everything")


@dataclass
class Group:
    """Runs whose configs differ only in the seed.

    Attributes:
        label: The settings in which it differs from the other groups.
        runs: Its runs.
        values: Maps each metric to ``{seed: value}``.
    """

    label: str
    runs: list[FinishedRun]
    values: dict[str, dict[Any, float]] = field(default_factory=dict)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to dotted keys, without ``init_args``, as in an override."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def read_run(folder: Path) -> FinishedRun:
    """Reads one run folder.

    Raises:
        UserError: it has no metrics or no config.
    """
    from framework.tracking.metrics_log import read_metrics

    config_file = folder / "config.yaml"
    if not (folder / "metrics.jsonl").is_file() or not config_file.is_file():
        raise UserError(f"{folder}: not a run folder (metrics.jsonl and config.yaml are needed)")
    series: dict[str, list[tuple[int, float]]] = {}
    for row in read_metrics(folder):
        step = int(row.get("step", 0))
        for key, value in row.items():
            if key not in ("step", "epoch") and isinstance(value, int | float):
                series.setdefault(key, []).append((step, float(value)))
    return FinishedRun(folder, flatten(load(config_file.read_text(encoding="utf-8")) or {}), series)


def find_runs(places: Sequence[str]) -> list[FinishedRun]:
    """Finds every run in the given folders, at any depth; evaluations inside a run are not counted as runs.

    Raises:
        UserError: a folder does not exist or holds no run.
    """
    found: dict[Path, FinishedRun] = {}
    for place in places:
        base = Path(place)
        if not base.is_dir():
            raise UserError(f"compare: no folder {place}")
        folders = (
            [base] if (base / "metrics.jsonl").is_file() else sorted(p.parent for p in base.rglob("metrics.jsonl"))
        )
        folders = [f for f in folders if (f / "config.yaml").is_file()]
        folders = [f for f in folders if not any(other in f.parents for other in folders)]
        if not folders:
            raise UserError(f"compare: {place} holds no run folder (metrics.jsonl and config.yaml are needed)")
        for folder in folders:
            found.setdefault(folder.resolve(), read_run(folder))
    return list(found.values())


def group_runs(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> list[Group]:
    """Groups runs that differ only in the seed, or by the given keys; labels name the settings that differ.

    Raises:
        UserError: a key of ``by`` is in no config.
    """
    keys = {key for run in runs for key in run.config}
    for key in by:
        if key not in keys:
            from difflib import get_close_matches

            near = get_close_matches(key, sorted(keys), n=3)
            raise UserError(f"compare: no run has the key {key}" + (f"; nearest: {', '.join(near)}" if near else ""))
    relevant = by or sorted(k for k in keys if not k.startswith(_IGNORED) or k == "run.method")
    differing = [k for k in relevant if len({json.dumps(r.config.get(k)) for r in runs}) > 1]
    groups: dict[str, Group] = {}
    for run in runs:
        parts = [f"{k}={run.config.get(k)}" for k in (by or differing)]
        identity = json.dumps([run.config.get(k) for k in (by or differing)])
        label = ", ".join(parts) or str(run.config.get("run.method") or run.folder.parent.name)
        groups.setdefault(identity, Group(label, [])).runs.append(run)
    return list(groups.values())


def summarise(groups: Sequence[Group], metrics: Sequence[str], better: str) -> None:
    """Fills in each group's value per seed.

    Args:
        groups: Changed in place.
        metrics: Their names.
        better: Which value of a run is used: the ``last`` logged one, or the smallest (``min``) or largest (``max``)
            finite one, as a sweep does for a trial.
    """
    from framework.tracking.trial_report import best_value

    def pick(series: Sequence[tuple[int, float]]) -> float:
        values = [value for _, value in series]
        if better == "last":
            return values[-1]
        found = best_value(values, better == "max")
        return math.nan if found is None else found

    for group in groups:
        for metric in metrics:
            for run in group.runs:
                if metric in run.series:
                    seed = run.seed if run.seed not in group.values.get(metric, {}) else str(run.folder)
                    group.values.setdefault(metric, {})[seed] = pick(run.series[metric])


def paired(first: Mapping[Any, float], other: Mapping[Any, float]) -> tuple[float, float, int]:
    """Returns mean and standard error of ``other - first`` over the seeds that both have, and the number of seeds."""
    seeds = [seed for seed in first if seed in other]
    differences = [other[seed] - first[seed] for seed in seeds]
    if not differences:
        return math.nan, math.nan, 0
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return statistics.fmean(differences), error, len(differences)


def draw(groups: Sequence[Group], metrics: Sequence[str], path: Path) -> Path:
    """Draws each metric against the step: the mean over a group's runs as a line, their spread as a band.

    Args:
        groups: The groups, one line each.
        metrics: The metrics, one panel each.
        path: The figure's file.

    Returns:
        The path of the figure.
    """
    from framework.figures import new_figure, save_figure

    figure = new_figure(1, len(metrics))
    for axes, metric in zip(figure.axes, metrics, strict=True):
        for number, group in enumerate(groups):
            by_step: dict[int, list[float]] = {}
            for run in group.runs:
                for step, value in run.series.get(metric, []):
                    by_step.setdefault(step, []).append(value)
            steps = sorted(step for step in by_step if all(map(math.isfinite, by_step[step])))
            means = [statistics.fmean(by_step[s]) for s in steps]
            spread = [statistics.stdev(by_step[s]) if len(by_step[s]) > 1 else 0.0 for s in steps]
            axes.plot(steps, means, color=f"C{number}", label=group.label, marker="." if len(steps) < 40 else "")
            low, high = (
                [m - s for m, s in zip(means, spread, strict=True)],
                [m + s for m, s in zip(means, spread, strict=True)],
            )
            axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.set(xlabel="optimiser step", ylabel=metric)
        axes.grid(alpha=0.3)
    if figure.axes:
        figure.axes[0].legend(fontsize="small")
    return save_figure(figure, path)


def command_line() -> CommandParser:
    """Builds the command's parser."""
    parser = CommandParser("compare", "[FOLDER...] [OPTION...]", "Compares runs over their seeds.")
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="run folders, or folders that contain some; default: runs"
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a logged metric; may be repeated; default: those of validation and test",
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="KEY",
        help="a key of the config to group by; may be repeated; default: a group has the runs that differ only "
        "in the seed",
    )
    parser.add_argument(
        "--best",
        choices=("last", "min", "max"),
        default="last",
        help="which value of each run: the last (default), or the smallest or largest finite one, as in sweeps",
    )
    parser.add_argument("--json", metavar="FILE", help="file for the table as JSON")
    parser.add_argument(
        "--figure", default="runs/compare.png", metavar="FILE", help="file for the curves; default: %(default)s"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 0.

    Raises:
        UserError: an option or its value is not accepted, there are no runs, or none logged a metric.
    """
    options = command_line().read(arguments)
    if options is None:
        return 0
    better = options.best
    runs = find_runs(options.folders or ["runs"])
    known = sorted({metric for run in runs for metric in run.series})
    metrics = options.metric or [m for m in known if m.startswith(("val/", "test/"))] or known
    for metric in metrics:
        if metric not in known:
            raise UserError(f"compare: no run logged {metric}; logged: {', '.join(known)}")
    groups = group_runs(runs, options.by)
    summarise(groups, metrics, better)
    figure = draw(groups, metrics[:6], Path(options.figure))
    rows = []
    for metric in metrics:
        first = groups[0].values.get(metric, {})
        for group in groups:
            values = list(group.values.get(metric, {}).values())
            mean = statistics.fmean(values) if values else math.nan
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            difference, error, pairs = (
                paired(first, group.values.get(metric, {})) if group is not groups[0] else (math.nan, math.nan, 0)
            )
            rows.append(
                {
                    "metric": metric,
                    "group": group.label,
                    "runs": len(values),
                    "mean": mean,
                    "std": spread,
                    "difference": difference,
                    "standard_error": error,
                    "pairs": pairs,
                    "values": {str(seed): value for seed, value in group.values.get(metric, {}).items()},
                }
            )
    _print(rows, better)
    print(f"curves in {figure}")
    if options.json:
        plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
        Path(options.json).write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _print(rows: Sequence[Mapping[str, Any]], better: str) -> None:
    from rich.console import Console
    from rich.table import Table

    title = "last value of each run" if better == "last" else f"best value of each run ({better})"
    table = Table(title=f"{title}; differences from the first group, paired by seed", title_justify="left")
    for column in ("metric", "group", "runs", "mean ± std", "paired difference"):
        table.add_column(column, overflow="fold")
    for row in rows:
        spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.2g}"
        difference = ""
        if row["pairs"]:
            error = "" if math.isnan(row["standard_error"]) else f" ± {row['standard_error']:.2g} (s.e.)"
            difference = f"{row['difference']:+.4g}{error}, {row['pairs']} pairs"
        table.add_row(row["metric"], row["group"], str(row["runs"]), f"{row['mean']:.4g}{spread}", difference)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
