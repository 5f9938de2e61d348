"""Writes ``quantiles.json``, ``grids.json`` and ``hyperband.json``: what W&B's package ``sweeps`` answers.

``schema.json`` is that package's ``config/schema.json`` and ``LICENSE`` its licence. The package wants numpy below 2 in
its metadata but runs with 2, so that it is best installed beside the rest, without its dependencies::

    pip install --no-deps --target /tmp/sweeps sweeps==0.3.0 jsonref pydantic
    PYTHONPATH=/tmp/sweeps python tests/framework/sweep/wandb/make.py
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
U = [1e-6, 0.001, 0.02, 0.1, 0.25, 1 / 3, 0.5, 0.6180339887, 0.75, 0.9, 0.98, 0.999, 1 - 1e-6]

PARAMETERS: list[dict[str, Any]] = [
    {"value": [1, {"a": None}]},
    {"values": ["a", 1, True, 1.0, None, [1], {"b": 2}]},
    {"values": [3], "distribution": "categorical"},
    {"values": ["a", "b", "c", "d"], "probabilities": [0.1, 0.0, 0.65, 0.25]},
    {"min": 1, "max": 2},
    {"min": -7, "max": 12, "distribution": "int_uniform"},
    {"min": 0, "max": 1000000},
    {"min": 1.5, "max": 4},
    {"min": -3, "max": 8, "distribution": "uniform"},
    {"min": 1, "max": 10, "q": 4, "distribution": "q_uniform"},
    {"min": 1, "max": 10, "distribution": "q_uniform"},
    {"min": -0.33, "max": 1.27, "q": 0.05, "distribution": "q_uniform"},
    {"min": -9, "max": -1.5, "distribution": "log_uniform"},
    {"min": -9, "max": -1.5, "distribution": "inv_log_uniform"},
    {"min": 0, "max": 5, "q": 8, "distribution": "q_log_uniform"},
    {"min": -2, "max": 3, "q": 0.25, "distribution": "q_log_uniform"},
    {"min": 1e-5, "max": 0.3, "distribution": "log_uniform_values"},
    {"min": 1e-5, "max": 0.3, "distribution": "inv_log_uniform_values"},
    {"min": 1, "max": 512, "q": 16, "distribution": "q_log_uniform_values"},
    {"min": 0.01, "max": 2, "q": 0.05, "distribution": "q_log_uniform_values"},
    {"distribution": "normal"},
    {"mu": -3.5, "sigma": 0.2, "distribution": "normal"},
    {"distribution": "log_normal"},
    {"mu": 2, "sigma": 0.5, "distribution": "log_normal"},
    {"distribution": "q_normal"},
    {"mu": 10, "sigma": 20, "q": 4, "distribution": "q_normal"},
    {"distribution": "q_log_normal", "q": 0.1},
    {"mu": 3, "sigma": 1.0, "q": 2, "distribution": "q_log_normal"},
    {"distribution": "beta"},
    {"a": 2, "b": 0.5, "distribution": "beta"},
    {"a": 0.05, "b": 30, "distribution": "beta"},
    {"distribution": "q_beta", "q": 0.125},
    {"a": 3, "b": 3, "q": 1, "distribution": "q_beta"},
]

GRIDS: list[dict[str, Any]] = [
    {"only": {"value": 3}},
    {"b": {"values": [1, 2, 3]}, "a": {"values": ["x", "y"]}, "c": {"value": 0}},
    {"i": {"min": -1, "max": 2}, "q": {"distribution": "q_uniform", "min": 1, "max": 10, "q": 4}},
    {"q": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}},
    {"q": {"distribution": "q_uniform", "min": 1, "max": 3}},
    {"q": {"distribution": "q_uniform", "min": -0.3, "max": 1.7, "q": 0.3}, "z": {"values": [0]}},
    {"v": {"values": [1, True, 1.0, "1", [1], [1.0], 2, 2, {"a": 1, "b": [2]}, {"b": [2], "a": 1}, None]}},
    {
        "z": {"values": [1, 2]},
        "n": {"parameters": {"y": {"values": ["p", "q"]}, "x": {"parameters": {"w": {"values": [5, 6]}}}}},
        "n.a": {"value": 1},
        "Z": {"values": [True, False]},
    },
]


def quantiles() -> list[dict[str, Any]]:
    from sweeps.params import HyperParameter

    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic | np.ndarray) else value

    return [{"parameter": p, "values": [plain(HyperParameter("p", dict(p)).ppf(u)) for u in U]} for p in PARAMETERS]


def grids() -> list[dict[str, Any]]:
    from sweeps.grid_search import grid_search_next_runs

    answers = []
    for parameters in GRIDS:
        runs = grid_search_next_runs([], {"method": "grid", "parameters": parameters}, n=10_000)
        points = [{name: entry["value"] for name, entry in run.config.items()} for run in runs if run is not None]
        answers.append({"parameters": parameters, "points": points})
    return answers


def hyperband_case(generator: random.Random) -> dict[str, Any]:
    """A sweep in the midst of its way, with values that do not count and ties, and whether W&B would stop each trial."""
    from sweeps.hyperband_stopping import hyperband_stop_runs
    from sweeps.run import RunState, SweepRun

    eta = generator.choice([2, 3, 4, 1.5, 2.7, 7])
    if generator.random() < 0.5:
        rule: dict[str, Any] = {"type": "hyperband", "min_iter": generator.randint(1, 5)}
    else:
        rule = {"type": "hyperband", "max_iter": generator.choice([8, 27, 30]), "s": generator.randint(1, 4)}
    if generator.random() < 0.8:
        rule["eta"] = eta
    if generator.random() < 0.7:
        rule["strict"] = generator.random() < 0.5
    goal = generator.choice(["minimize", "maximize"])
    odd = [math.nan, math.inf, -math.inf, "text", True, None]

    def history() -> list[Any]:
        level = generator.gauss(0, 1)
        values: list[Any] = [
            round(level + generator.gauss(0, 0.5), 1) for _ in range(generator.choice([0, 1, 3, 9, 12, 30, 40]))
        ]
        return [value if generator.random() < 0.9 else generator.choice([*odd, value, value]) for value in values]

    histories = [history() for _ in range(generator.randint(1, 12))]
    runs = [
        SweepRun(name=str(index), state=RunState.running, history=[{"loss": value} for value in values])
        for index, values in enumerate(histories)
    ]
    config = {"method": "random", "metric": {"name": "loss", "goal": goal}, "early_terminate": rule}
    stopped = {run.name for run in hyperband_stop_runs(runs, config)}
    return {
        "early_terminate": rule,
        "goal": goal,
        "histories": histories,
        "stop": [run.name in stopped for run in runs],
    }


def main() -> None:
    generator = random.Random(0)
    answers = {
        "quantiles.json": {"u": U, "parameters": quantiles()},
        "grids.json": grids(),
        "hyperband.json": [hyperband_case(generator) for _ in range(50)],
    }
    for name, answer in answers.items():
        rows = answer["parameters"] if isinstance(answer, dict) else answer
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        if isinstance(answer, dict):
            text = f'{{"u": {json.dumps(answer["u"])}, "parameters": {text}}}'
        (HERE / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
