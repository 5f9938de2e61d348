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
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    commands = {
        "import torch, lightning, timm": IMPORTS,
        "fit sequence/s4d, to its first step": [part.format(config="sequence/s4d") for part in FIT],
        "fit vision/image_classifier, to its first step": [
            part.format(config="vision/image_classifier") for part in FIT
        ],
        "list": LIST,
    }
    for command in commands.values():  # warm the file cache
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    base = times["import torch, lightning, timm"]
    print(f"{'whole process, ' + str(arguments.runs) + ' runs':<50} {'median s':>9} {'ratio to imports':>17}")
    for name, values in times.items():
        ratio = statistics.median(value / other for value, other in zip(values, base, strict=True))
        print(f"{name:<50} {statistics.median(values):>9.2f} {ratio:>17.2f}")


if __name__ == "__main__":
    main()
