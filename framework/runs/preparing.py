"""Prepares a config for the type check: composes it, completes it from a checkpoint, and interpolates."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from framework import catalogue
from framework.checkpoints.finding import find_checkpoint, folder_of
from framework.config import explain
from framework.config.compose import CLASS_SECTIONS, Composed, KeyPath, Request, compose, read_command_line
from framework.config.interpolate import interpolate
from framework.config.moved import moves_of
from framework.config.places import make_absolute
from framework.editing import order
from framework.errors import UserError
from framework.plain import plain_data
from framework.runs.requeue import begun_run
from framework.runs.sections import BASES, GROUPS


def prepare(request: Request, subcommand: str, command: Sequence[str] | None = None) -> tuple[Composed, Path | None]:
    """Composes, finds the checkpoint, uses its config if none was given, and interpolates.

    Args:
        request: The config files and overrides, read.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        command: The command line, if SLURM may have restarted it; the run that it started before is then resumed.

    Returns:
        The composed config, ready for the type check, and the checkpoint file.

    Raises:
        UserError: there are mistakes that can be found before types are checked; the message has all of them.
    """
    techniques = catalogue.techniques()
    composed = _composed(request, subcommand, techniques)
    checkpoint: Path | None = None
    if command is not None and not composed.incomplete:
        _go_on_with_own_run(composed, command)
    given = composed.tree.get("ckpt_path")
    if given is not None and not composed.incomplete:
        settings = composed.tree.get("run") or {}
        try:
            checkpoint = find_checkpoint(
                str(given), str(settings.get("root", "runs")), settings.get("method") or composed.method
            )
            if "class_path" not in (composed.tree.get("model") or {}):
                folder = folder_of(checkpoint)
                if folder is None or not (folder / "config.yaml").is_file():
                    raise UserError(f"no --config is given, and there is no config.yaml beside {checkpoint}")
                saved = read_command_line(["--config", str(folder / "config.yaml")])
                request = Request(layers=[*saved.layers, *request.layers], files=request.files, method=request.method)
                composed = _composed(request, subcommand, techniques)
            composed.tree["ckpt_path"] = str(checkpoint)
        except UserError as error:
            composed.problems.append(str(error))
            composed.incomplete = True
    elif given is None and "model" not in composed.tree and not composed.problems:
        from framework.paths import shipped_configs

        if request.files:
            files = ", ".join(map(str, request.files))
            raise UserError(f"{files}: no model; give a class path, as model or as --model=package.module.Class")
        names = [name for name in shipped_configs() if not name.startswith(("callbacks/", "sweeps/"))]
        raise UserError(f"--config is missing; shipped configs: {', '.join(names)}")
    settings = composed.tree.setdefault("run", {})
    if isinstance(settings, dict) and settings.get("method") is None and composed.method:
        settings["method"] = composed.method
    interpolate(composed, lambda: _class_defaults(composed))
    make_absolute(composed.tree, BASES)
    _order_techniques(composed)
    if composed.problems:
        problems = [*composed.problems, *explain.explain(composed, BASES, {**GROUPS, "trainer": pl.Trainer})]
        raise UserError("\n".join(dict.fromkeys(problems)))
    _say_what_moved(composed)
    return composed, checkpoint


def _composed(request: Request, subcommand: str, techniques: Mapping[str, str]) -> Composed:
    """Composes; where classes have settings that moved, once more, with these under their present names."""
    composed = compose(request, subcommand, techniques)
    moves = _moves(composed.tree)
    return compose(request, subcommand, techniques, moves) if moves else composed


def _moves(tree: Mapping[str, Any]) -> dict[KeyPath, Mapping[str, str]]:
    """The settings of every configured class that have moved, by the key path of its arguments."""
    found: dict[KeyPath, Mapping[str, str]] = {}

    def look(path: KeyPath, settings: Any, base: type) -> None:
        if not isinstance(settings, Mapping):
            return
        if "class_path" in settings:
            try:
                moves = moves_of(explain.find_class(settings["class_path"], base))
            except explain.UnknownClass:  # will be said with the types
                return
            path, settings = (*path, "init_args"), settings.get("init_args")
            if moves:
                found[path] = moves
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            look((*path, key), value, object)

    for section in CLASS_SECTIONS:
        look((section,), tree.get(section), BASES[section])
    for name, settings in (tree.get("techniques") or {}).items():
        look(("techniques", name), settings, BASES["techniques"])
    return found


@rank_zero_only
def _say_what_moved(composed: Composed) -> None:
    for where, made in composed.moved.items():
        groups: dict[str, list[str]] = {}
        for old, new in made.items():
            group, _, name = new.rpartition(".")
            groups.setdefault(f"in {group}" if name == old else new, []).append(old)
        texts = (f"{', '.join(old)} {'is' if len(old) == 1 else 'are'} now {new}" for new, old in groups.items())
        print(f"{where}: {'; '.join(texts)}", file=sys.stderr)


def _go_on_with_own_run(composed: Composed, command: Sequence[str]) -> None:
    """If SLURM has restarted a command, resumes the run that the command started before."""
    settings = composed.tree.get("run") or {}
    method = settings.get("method") or composed.method
    root = Path(str(settings.get("root", "runs")))
    own = begun_run(root / str(method) if method else root, command)
    if own is None:
        return
    last = own / "checkpoints" / "last.ckpt"
    if last.is_file():
        composed.tree["ckpt_path"] = str(last)
    composed.tree["run"] = {**settings, "name": own.name}


def _order_techniques(composed: Composed) -> None:
    """Puts the techniques in the order of application; reports those that cannot be combined."""
    techniques = composed.tree.get("techniques") or {}
    classes = {}
    for name, settings in techniques.items():
        try:
            classes[name] = explain.find_class((settings or {}).get("class_path"), Callback)
        except (explain.UnknownClass, AttributeError):
            return  # reported when types are checked
    try:
        composed.tree["techniques"] = {name: techniques[name] for name in order.resolve(classes)}
    except UserError as error:
        composed.problems.append(str(error))


def _class_defaults(composed: Composed) -> dict[str, Any]:
    """Returns the defaults of the arguments that were not given, for every configured class."""
    tree: dict[str, Any] = {"seed_everything": 0}
    sections: list[tuple[tuple[str, ...], str]] = [(("model",), "model"), (("data",), "data")]
    sections += [(("techniques", name), "techniques") for name in composed.tree.get("techniques") or {}]
    for path, base in sections:
        settings: Any = composed.tree
        for key in path:
            settings = (settings or {}).get(key)
        try:
            cls = explain.find_class((settings or {}).get("class_path"), BASES[base])
        except explain.UnknownClass:
            continue
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place["init_args"] = explain.argument_defaults(cls)
    for section, cls in {**GROUPS, "trainer": pl.Trainer}.items():
        tree[section] = explain.argument_defaults(cls)
    return plain_data(tree, strict=False)
