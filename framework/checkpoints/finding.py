"""Finds the file that a checkpoint's name means, and the run folder that contains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from framework.errors import UserError

PROVENANCE = "provenance.json"


def folder_of(checkpoint: Path) -> Path | None:
    """Returns the run folder that contains a checkpoint, or ``None`` if it is not in a run folder."""
    here = Path.cwd()
    for parent in list(checkpoint.resolve().parents)[:2]:
        if (parent / PROVENANCE).is_file() or (parent / "config.yaml").is_file():
            return parent.relative_to(here) if parent.is_relative_to(here) else parent
    return None


def run_id_of(folder: Path) -> str | None:
    """Returns the run id in a run folder's record."""
    return read_record(folder).get("run_id")


def read_record(folder: Path) -> dict[str, Any]:
    """Returns the provenance of a run folder; empty if there is none, or it cannot be read."""
    try:
        record = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def find_checkpoint(given: str, root: str | Path = "runs", method: str | None = None) -> Path:
    """Returns the checkpoint file that ``--ckpt_path`` means.

    Args:
        given: ``last`` or ``best`` (of the newest run of this method), a run folder, or a file.
        root: Folder of all runs.
        method: The method; without one, the newest run of any method is used.

    Raises:
        UserError: there is no such checkpoint.
    """
    if given in ("last", "best"):
        base = Path(root).expanduser()
        base = base / method if method else base
        found = [p for p in base.glob("**/checkpoints/last.ckpt") if p.is_file()]
        if not found:
            early = [p for p in base.glob("**/config.yaml") if read_record(p.parent).get("subcommand") == "fit"]
            raise UserError(
                f"--ckpt_path {given}: no run with a checkpoint in {base}"
                + (f"; {_start_again(max(early, key=lambda path: path.stat().st_mtime_ns).parent)}" if early else "")
            )
        newest = max(found, key=lambda path: path.stat().st_mtime_ns)
        return newest if given == "last" else _best(newest.parent)
    path = Path(given).expanduser()
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if (folder / "last.ckpt").is_file():
            return folder / "last.ckpt"
        hint = f"; {_start_again(path)}" if read_record(path).get("subcommand") == "fit" else ""
        raise UserError(f"--ckpt_path: {path} holds no checkpoints/last.ckpt{hint}")
    if not path.is_file():
        raise UserError(
            f"--ckpt_path: no file or folder {given}; accepted: last, best, a run folder, a checkpoint file"
        )
    return path


def _start_again(folder: Path) -> str:
    return f"{folder} ended before its first checkpoint: start again with fit --config {folder / 'config.yaml'}"


def _best(folder: Path) -> Path:
    from framework.checkpoints.reading import open_checkpoint

    states = open_checkpoint(folder / "last.ckpt").get("callbacks", {})
    for state in states.values():
        best = folder / Path(str(state.get("best_model_path", ""))).name if isinstance(state, dict) else folder
        if best.is_file():
            return best
    raise UserError(f"--ckpt_path best: {folder} holds no best checkpoint; was run.monitor set?")
