"""The provenance of a run's results: code, packages, machine, command, seed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from framework.files import write_text

PACKAGES = (
    *("modular-framework", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "scipy", "timm", "peft"),
    *("omegaconf", "jsonargparse", "wandb", "optuna", "scikit-learn", "safetensors"),
)
FILE = "provenance.json"
GIT_SECONDS = 3.0


def provenance(command: list[str], seed: int | None) -> dict[str, Any]:
    """Collects the information that is needed to repeat a run.

    Args:
        command: The command line.
        seed: The run's seed.

    Returns:
        Plain data: ``command``, ``seed``, ``started`` (UTC, ISO 8601), ``host``, ``folder``, ``slurm`` (see
        :func:`slurm`), ``python``, ``platform``, ``hardware`` (``cpu``, ``cores``, ``ram_gib``, ``gpus``),
        ``packages``, and ``git`` and ``framework_git``: the states of the current folder's repository and of the
        framework's own checkout, ``None`` if there is none.
    """
    here, own = Path.cwd(), Path(__file__).resolve().parents[2]
    return {
        "command": list(command),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "folder": str(here),
        "slurm": slurm(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "packages": packages(),
        "git": git_state(here),
        "framework_git": git_state(own) if (own / ".git").exists() else None,
    }


def slurm() -> dict[str, Any] | None:
    """Returns the SLURM job of this process, ``None`` if there is none.

    Returns:
        ``job`` (with the task of an array, as ``scontrol requeue`` accepts it), ``step``, ``process``, and
        ``restarts``: how often SLURM has restarted the job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")
    return {
        "job": f"{array}_{task}" if array and task else job,
        "step": os.environ.get("SLURM_STEP_ID"),
        "process": os.environ.get("SLURM_PROCID"),
        "restarts": int(restarts) if restarts.isdecimal() else 0,
    }


def write(folder: str | Path, facts: Mapping[str, Any]) -> Path:
    """Writes ``provenance.json`` into ``folder`` and returns its path.

    A resumed run keeps its first process's record; those of later processes are added to the list ``resumed`` in it.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(folder) / FILE
    try:
        first = json.loads(path.read_text())
    except (OSError, ValueError):
        record: dict[str, Any] = dict(facts)
    else:
        record = {**first, "resumed": [*first.get("resumed", []), dict(facts)]}
    write_text(path, json.dumps(record, indent=2) + "\n")
    return path


def git_state(folder: Path) -> dict[str, Any] | None:
    """Returns commit, branch and uncommitted changes of the repository around ``folder``; ``None`` without one."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=GIT_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.rstrip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    status = git("status", "--porcelain", "--untracked-files=normal")
    return {
        "commit": commit,
        "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        "dirty": None if status is None else bool(status),
        "changed": [] if not status else [line[3:] for line in status.splitlines()[:50]],
    }


def packages() -> dict[str, str]:
    """Returns the versions of the packages that results may depend on, without importing them."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Returns the CPU, the cores this process may use, memory in GiB, and the GPUs if torch is imported already."""
    gpus: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "ram_gib": _ram(),
        "gpus": gpus,
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _ram() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
