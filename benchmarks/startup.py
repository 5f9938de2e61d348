"""How long `list` takes, and how long `fit` takes to its first step, against importing its libraries alone.

Whole processes, run in turn (A B A B …); medians and the median of the pairwise ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _rows import Row, duration, report

from framework.claims import at_most

HERE = Path(__file__).resolve().parent
IMPORTS = [sys.executable, "-c", "import torch, lightning.pytorch, timm"]
FIT = [
    sys.executable, "-m", "framework", "fit", "--config", "{config}", "--wandb.mode=offline",
    "--techniques.first_step=_first_step.ExitAtFirstStep", "--trainer.accelerator=cpu",
]  # fmt: skip
LIST = [sys.executable, "-m", "framework", "list"]


def seconds(command: list[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
        return time.perf_counter() - start


def rows(options: argparse.Namespace) -> Iterator[Row]:
    commands = {
        "list": LIST,
        **{
            f"fit {config}, to its first step": [part.format(config=config) for part in FIT]
            for config in ("sequence/s4d", "vision/image_classifier")
        },
    }
    for command in (IMPORTS, *commands.values()):  # warm the file cache
        seconds(command)
    base: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs):
        base.append(seconds(IMPORTS))
        for name, command in commands.items():
            times[name].append(seconds(command))
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values, base, strict=True))
        bound = at_most(0.1) if name == "list" else at_most(1.5)
        yield Row(name, "import torch, lightning, timm", ratio, duration(statistics.median(base)), bound)


if __name__ == "__main__":
    report(__file__, __doc__, rows, lambda parser: parser.add_argument("--runs", type=int, default=5))
