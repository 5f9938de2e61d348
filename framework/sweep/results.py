"""Writes a sweep's results: a table of its trials, and the best trial's config, ready to run."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from framework.config import yaml12
from framework.sweep.labels import last_attempts, one_line
from framework.sweep.trial import Trial

if TYPE_CHECKING:
    from framework.sweep.spec import Sweep

TABLE = "trials.csv"
BEST = "best.yaml"
OWN_SECTIONS = {"model", "data", "techniques", "trainer", "run", "wandb"}
"""Sections in a config.yaml that this framework wrote."""


def write_trials(folder: str | Path, sweep: Sweep, trials: Iterable[Trial]) -> Path:
    """Writes ``trials.csv``: a row for the last attempt at each point, by point.

    Columns: ``point``; ``state``; the metric's name with the best value, and ``last``, both omitted without a metric;
    each parameter that varies by its label (``parameters.<label>`` if the label is the name of another column);
    ``seconds``; ``folder``; ``message``. Texts are written unchanged, other values as JSON, unknown ones empty.

    Args:
        folder: The sweep's folder.
        sweep: The sweep.
        trials: All trials, in the order of their attempts.

    Returns:
        The file, which is replaced atomically.
    """
    before = ["point", "state", *([sweep.metric.name, "last"] if sweep.metric else [])]
    after = ["seconds", "folder", "message"]
    labels = [parameter.label for parameter in sweep.parameters if not parameter.is_constant]
    columns = [f"parameters.{label}" if label in (*before, *after) else label for label in labels]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow([*before, *columns, *after])
    for trial in last_attempts(trials):
        metric = ["" if value is None else repr(value) for value in (trial.value, trial.last)] if sweep.metric else []
        values = [_cell(trial.values[label]) if label in trial.values else "" for label in labels]
        place = [f"{trial.seconds:.3f}", trial.folder or "", trial.message]
        writer.writerow([trial.point, trial.state, *metric, *values, *place])
    return _replace(Path(folder) / TABLE, file.getvalue())


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def valued(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the trials with a value, by point: the last attempt at each that has ended and logged the metric.

    The values of trials that hyperband stopped or that failed count too, as in W&B's best run and in ``compare
    --best``.
    """
    ended = (trial for trial in last_attempts(trials) if trial.state != "running")
    return [trial for trial in ended if trial.value is not None and math.isfinite(trial.value)]


def best(sweep: Sweep, trials: Iterable[Trial]) -> Trial | None:
    """Returns the trial with the best :attr:`Trial.value`; of equal ones that with the lower point.

    Returns ``None`` without a metric or any value.
    """
    if sweep.metric is None:
        return None
    choose = max if sweep.metric.goal == "maximize" else min
    return choose(valued(trials), key=lambda trial: trial.value or 0.0, default=None)


def write_best(folder: str | Path, sweep: Sweep, trial: Trial) -> Path:
    """Writes ``best.yaml``, with a header that describes it.

    For a run of this framework it is the config, so that ``fit --config .../best.yaml`` trains it again as a new run:
    the run's folder and name in the sweep and its W&B group are removed. For any other program it has the parameters.

    Args:
        folder: The sweep's folder.
        sweep: The sweep.
        trial: The trial from :func:`best`.

    Returns:
        The file, which is replaced atomically.
    """
    path = Path(folder) / BEST
    config = _own_config(trial)
    title = sweep.name or Path(sweep.path).stem
    lines = [f"The best trial of the sweep {title} ({sweep.path}): point {trial.point}, {trial.state}."]
    if sweep.metric and trial.value is not None:
        lines.append(f"{sweep.metric.name} = {trial.value!r} ({sweep.metric.goal}; best value of each trial)")
    if config is None:
        lines.append("Its parameters:")
        content: Mapping[str, Any] = sweep.nested(trial.values)
    else:
        varied = [parameter.label for parameter in sweep.parameters if not parameter.is_constant]
        lines += [f"{label} = {json.dumps(trial.values[label])}" for label in varied if label in trial.values]
        lines.append(f"Run it: python -m framework fit --config {path}")
        content = config
    header = "".join(f"# {one_line(line)}\n" for line in lines)
    return _replace(path, header + yaml12.dump(dict(content)))


def _own_config(trial: Trial) -> dict[str, Any] | None:
    """Returns the config of a run of this framework, without the sweep's settings."""
    if trial.folder is None:
        return None
    try:
        config = yaml12.load((Path(trial.folder) / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(config, dict) or not config.keys() >= OWN_SECTIONS:
        return None
    run = {key: value for key, value in config["run"].items() if key not in ("root", "method")}
    return {**config, "run": {**run, "name": None}, "wandb": {**config["wandb"], "group": None}}


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)
    return path
