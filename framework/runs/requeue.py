"""Finds the run that a command started before SLURM requeued it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.checkpoints.finding import PROVENANCE, read_record
from framework.tracking.provenance import slurm


def begun_run(runs: Path, command: Sequence[str]) -> Path | None:
    """Returns the folder of the run that this command started, if SLURM has restarted the job.

    A run is this command's own if its record has the same job (and task of an array), the same command and the same
    working folder. Of several, the one with the same job step and process is used, then the newest.

    Args:
        runs: Folder of the method's runs; with one more level, of all methods'.
        command: The command line.
    """
    job = slurm()
    if job is None or not job["restarts"]:
        return None
    found = []
    for path in (*runs.glob(f"*/{PROVENANCE}"), *runs.glob(f"*/*/{PROVENANCE}")):
        record = read_record(path.parent)
        for facts in (record, *record.get("resumed", [])):
            if facts.get("subcommand") == "fit" and _is_own(facts, job, command):
                then = facts["slurm"]
                near = then["step"] == job["step"], then["process"] == job["process"]
                found.append((*near, facts["started"], path.stat().st_mtime_ns, path.parent))
    return max(found)[-1] if found else None


def _is_own(facts: Mapping[str, Any], job: Mapping[str, Any], command: Sequence[str]) -> bool:
    same_job = (facts.get("slurm") or {}).get("job") == job["job"]
    return same_job and facts.get("command") == list(command) and facts.get("folder") == os.getcwd()
