"""Reads and writes the file of a learngene."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from framework.checkpoints.weights_file import read_weights_file
from framework.errors import UserError
from framework.functional.learngene import LearngeneTensors
from framework.functional.matching import compare_tensors

FORMAT = "learngene"


VERSION = "1"


FILE = "learngene.safetensors"


_PARTS = ("base", "slope", "shared")


def save_learngene(learngene: LearngeneTensors, path: str | Path) -> Path:
    """Writes a learngene as safetensors and returns the path; missing folders are made."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{part}.{n}": v.contiguous() for part in _PARTS for n, v in getattr(learngene, part).items()}
    metadata = {"format": FORMAT, "version": VERSION, "heads": str(learngene.heads), "depth": str(learngene.depth)}
    save_file(tensors, path, metadata)
    return path


def read_learngene(path: str | Path, key: str = "learngene") -> LearngeneTensors:
    """Reads a learngene's file; for a folder, its ``learngene.safetensors``.

    Args:
        path: The file, or the folder of the run that wrote it.
        key: The setting that named it, for messages.

    Raises:
        UserError: the file is missing, is not a safetensors file, or does not hold a learngene.
    """
    from safetensors import safe_open

    path = Path(path).expanduser()
    path = path / FILE if path.is_dir() else path
    if path.suffix != ".safetensors":
        raise UserError(
            f"{key}: {path} is not accepted; a .safetensors file with a learngene, or the folder of its run"
        )
    state, _ = read_weights_file(path, key)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise UserError(f"{key}: {path} holds no learngene (its metadata lacks format: {FORMAT})")
    if metadata.get("version") != VERSION:
        raise UserError(f"{key}: {path} has version {metadata.get('version')}, this program reads version {VERSION}")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise UserError(f"{key}: {path} has a tensor {name!r}; accepted: base.…, slope.… and shared.…")
        parts[part][rest] = value
    fit = compare_tensors(parts["base"], parts["slope"])
    if not parts["base"] or not fit.complete:
        raise UserError(f"{key}: {path} is broken, its base and slope are not of the same tensors")
    heads, depth = (metadata.get(name, "0") for name in ("heads", "depth"))
    if not (heads.isdecimal() and depth.isdecimal()):
        raise UserError(f"{key}: {path} is broken, heads {heads!r} and depth {depth!r} are no numbers")
    return LearngeneTensors(parts["base"], parts["slope"], parts["shared"], int(heads), int(depth))
