"""Draws the accuracy of interventions over the power of the map, from a sweep's trials (arXiv 2507.08802).

Run: ``python -m modules.interpretability.causal_abstraction.power sweeps/causal_abstraction_power``. It reads each
trial's ``iia.json`` and writes ``iia.csv`` and ``figures/power.png`` into the sweep's folder. A row of the table has a
map at a place: mean and largest over seeds on the trained host, the same on the random host, the rate of the most
frequent answer, and the number of interventions of a seed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.figures import save_figure
from framework.files import write_text
from framework.readers.text import read_text
from modules.interpretability.causal_abstraction.plots import Scores, power_figure

NEEDED = {"map": 0, "layer": 0, "size": 0, "algorithm": 0, "host": 0, "iia": 0, "majority": 0, "pairs": 0}.keys()
COLUMNS = ("place", "map", "host_mean", "host_max", "random_mean", "random_max", "majority", "pairs", "seeds")


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of ``iia.json`` of a sweep's trials, or of any runs in a folder.

    Raises:
        UserError: there is none, or one is broken.
    """
    found = []
    for file in sorted(folder.glob("**/iia.json")):
        try:
            row = json.loads(read_text(file))
        except ValueError as error:
            raise UserError(f"{file}: not what a training of causal_abstraction writes ({error})") from error
        if not isinstance(row, dict) or not row.keys() >= NEEDED:
            raise UserError(f"{file}: not what a training of causal_abstraction writes; it has {', '.join(NEEDED)}")
        found.append(row)
    if not found:
        raise UserError(f"{folder}: no run in it has an iia.json, which a training of causal_abstraction writes")
    return found


def over_runs(trials: Sequence[dict[str, Any]]) -> list[Scores]:
    """Returns the scores of each map, place and host over the seeds."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in trials:
        panel = f"{row['algorithm']}, {row['layer']}, size {row['size']}"
        groups.setdefault((panel, row["map"], row["host"]), []).append(row)
    return [
        Scores(
            name,
            panel,
            host,
            tuple(row["iia"] for row in rows),
            sum(row["majority"] for row in rows) / len(rows),
            rows[0]["pairs"],
        )
        for (panel, name, host), rows in sorted(groups.items(), key=lambda item: (item[0][0], power(item[0][1])))
    ]


def power(label: str) -> tuple[int, int, int]:
    """Returns what maps are ordered by: their kind, and the number of hidden units of a RevNet."""
    if not label.startswith("revnet"):
        return (("identity", "orthogonal").index(label) if label in ("identity", "orthogonal") else 3), 0, 0
    depth, *widths = label.removeprefix("revnet ").split("x")
    return 2, int(depth), sum(int(width) if width.isdigit() else 0 for width in widths)


def table(scores: Sequence[Scores]) -> list[tuple[Any, ...]]:
    """Returns the rows of the table, the random host's values beside the trained one's; empty where there are none."""
    found: dict[tuple[str, str], dict[str, Scores]] = {}
    for row in scores:
        found.setdefault((row.panel, row.map), {})[row.host] = row
    rows: list[tuple[Any, ...]] = []
    for (panel, name), hosts in found.items():
        values: list[Any] = []
        for host in ("trained", "random"):
            own = hosts.get(host)
            values += ["", ""] if own is None else [round(own.mean, 4), round(own.largest, 4)]
        one = next(iter(hosts.values()))
        rows.append((panel, name, *values, round(one.majority, 4), int(one.pairs), len(one.iia)))
    return rows


def draw_power(folder: Path) -> Path:
    """Writes the table and the figure of a sweep, and returns the figure's path.

    Raises:
        UserError: there are no runs in the folder.
    """
    scores = over_runs(read_trials(folder))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *table(scores)])
    write_text(folder / "iia.csv", text.getvalue())
    maps = sorted({row.map for row in scores}, key=power)
    return save_figure(power_figure(scores, maps), folder / "figures" / "power.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figure of the folder on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the sweep")
    given = parser.parse_args(arguments)
    try:
        print(draw_power(given.folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((given.folder / "iia.csv").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
