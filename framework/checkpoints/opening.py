"""Opens a checkpoint as a module in a script: builds its class, repeats its edits, loads its weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from framework.checkpoints.finding import find_checkpoint, folder_of
from framework.checkpoints.reading import open_checkpoint
from framework.config import explain, yaml12
from framework.config.moved import moves_of, regroup
from framework.editing.ledger import attach, configure
from framework.errors import UserError


def open_model(
    path: str | Path,
    cls: type[pl.LightningModule] | None = None,
    *,
    map_location: Any = "cpu",
    strict: bool = True,
    **arguments: Any,
) -> pl.LightningModule:
    """Builds the module of a checkpoint, repeats its edits and loads its weights.

    Nothing that the checkpoint names is imported or executed: the class is ``cls``, or the one in the ``config.yaml``
    of the run folder that contains the checkpoint.

    Args:
        path: A checkpoint file, or a run folder (then its ``last.ckpt``).
        cls: Class of the module; any LightningModule.
        map_location: Device of the tensors.
        strict: Whether every weight must be in the checkpoint.
        **arguments: Arguments of the constructor, which override those in the checkpoint.

    Raises:
        UserError: the file is not a checkpoint, its class is not known, or its edits or weights do not fit.
    """
    path = Path(path).expanduser()
    path = find_checkpoint(str(path)) if path.is_dir() else path
    checkpoint = open_checkpoint(path, map_location=map_location)
    module = _from_config(path, checkpoint, arguments) if cls is None else _from_class(path, cls, checkpoint, arguments)
    configure(module)
    attach(module)
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"], strict=strict)
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from error
    return module


def _from_class(path: Path, cls: type[pl.LightningModule], checkpoint: Any, given: dict[str, Any]) -> Any:
    moves = moves_of(cls)
    saved, _ = regroup(checkpoint.get("hyper_parameters") or {}, moves)
    if name := checkpoint.get("hparams_name") if checkpoint.get("hparams_name") != "kwargs" else None:
        saved = {name: saved}
    parameters = inspect.signature(cls.__init__).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    saved = {k: v for k, v in saved.items() if (anything or k in parameters) and not k.startswith("_")}
    try:
        return cls(**regroup({**saved, **given}, moves)[0])
    except TypeError as error:
        raise UserError(f"{path}: {cls.__name__} cannot be built from the checkpoint's arguments: {error}") from error


def _from_config(path: Path, checkpoint: Any, given: dict[str, Any]) -> Any:
    """Builds the class that the config names.

    The arguments are the checkpoint's, or the config's if the checkpoint has none or they name other classes.
    """
    folder = folder_of(path)
    if folder is None or not (folder / "config.yaml").is_file():
        raise UserError(f"{path}: there is no config.yaml beside it; give the module's class")
    settings = dict(yaml12.load((folder / "config.yaml").read_text(encoding="utf-8"))["model"])
    try:
        cls = explain.find_class(settings["class_path"], pl.LightningModule)
    except explain.UnknownClass as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}") from error
    saved = checkpoint.get("hyper_parameters") or {}
    if saved and not any(isinstance(value, dict) and "class_path" in value for value in saved.values()):
        return _from_class(path, cls, checkpoint, given)
    from framework.config.instantiate import instantiate

    start_only = dict.fromkeys(getattr(cls, "start_only", ()))
    moves = moves_of(cls)
    arguments, _ = regroup(settings.get("init_args") or {}, moves)
    settings["init_args"] = regroup({**arguments, **start_only, **given}, moves)[0]
    return instantiate(pl.LightningModule, settings, str(folder / "config.yaml"))
