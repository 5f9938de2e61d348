"""Composes a config: merges files and overrides, in order, into one tree of plain values.

Every file and every override is one layer. A layer is put in canonical form (``model.lr`` and ``model.init_args.lr``
are one key), then merged: mappings merge, anything else is replaced, a technique that ends as null is removed, and a
layer that names another class drops the arguments that earlier layers set for the previous class.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from framework.config import yaml12
from framework.config.moved import regroup
from framework.errors import UserError
from framework.paths import find_config
from framework.settings import brief

KeyPath = tuple[str, ...]

CLASS_SECTIONS = ("model", "data")
GROUP_SECTIONS = ("trainer", "run", "wandb")
SUBCOMMAND_KEYS = {
    "fit": ("ckpt_path", "weights_only"),
    "validate": ("ckpt_path", "verbose", "weights_only"),
    "test": ("ckpt_path", "verbose", "weights_only"),
    "predict": ("ckpt_path", "return_predictions", "weights_only"),
}
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
_IDENTIFIER = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_BARE = re.compile(r"^[A-Za-z_][\w.]*=")


TYPED = "command line"
"""Origin of a :class:`Layer` that was given on the command line."""


@dataclass
class Layer:
    """One file, mapping or override, as the user gave it.

    Attributes:
        tree: Its keys, not yet in canonical form.
        origin: Where it comes from, for messages: a file or ``command line``.
        lines: Line number of each key path, for a file.
    """

    tree: dict[str, Any]
    origin: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)


@dataclass
class Request:
    """The parsed command line: layers to compose, and options that are not part of the config."""

    layers: list[Layer] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    method: str | None = None
    print_config: str | None = None
    help: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Composed:
    """The merged config.

    Attributes:
        tree: Plain values in canonical form.
        origins: Maps each key path to ``file:line`` or ``command line``.
        problems: Mistakes found so far, one message each.
        incomplete: Whether a file could not be read, so that a missing key is not reported.
        moves: For the key path of a class's arguments, the arguments that have been renamed (see
            :mod:`framework.config.moved`).
        moved: The renamings that were made, by the key path of the class.
        method: Name, without its suffix, of the first config file that has a model, else of the first file; ``None``
            without a file.
    """

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    incomplete: bool = False
    moves: Mapping[KeyPath, Mapping[str, str]] = field(default_factory=dict)
    moved: dict[str, dict[str, str]] = field(default_factory=dict)
    method: str | None = None

    def origin(self, path: KeyPath) -> str:
        """Returns `` (file:line)`` of a key or of the nearest mapping around it, or an empty string."""
        while path:
            if path in self.origins:
                return f" ({self.origins[path]})"
            path = path[:-1]
        return ""


def parse_value(text: str) -> Any:
    """Parses the value of an override, as a shell or a sweep agent writes it.

    ``null``, ``None`` and ``~`` are null; matching outer quotes are removed; lists and mappings are read as YAML, else
    as a Python literal (an agent writes ``{'a': None}``); anything else stays text, which is converted when types are
    checked.
    """
    if text in ("null", "None", "~"):
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text[:1] + text[-1:] in ("[]", "{}"):
        # As a Python literal first if YAML would read None and True inside as text.
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
        try:
            return yaml12.load(text)
        except yaml.YAMLError:
            return text
    return text


def read_command_line(arguments: Sequence[str]) -> Request:
    """Parses the arguments after the subcommand into a :class:`Request`; nothing is merged or type-checked yet.

    An option on the command line overrides every file, also one that is named after it.
    """
    request = Request()
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument in ("-h", "--help"):
            request.help.append("--help")
            continue
        if argument.startswith("{"):
            _add_mapping(request, argument)
            continue
        if not argument.startswith("--") and argument != "-c" and not _BARE.match(argument):
            request.problems.append(f"{brief(argument)}: unexpected argument; settings are written --key=value")
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument == "-c":
            name = "config"
        if name.endswith(".help") or name == "help":
            if not equals and queue and not queue[0].startswith("-"):
                value, equals = queue.pop(0), "="
            request.help.append(f"--{name}{equals}{value}")
            continue
        if name == "print_config":
            request.print_config = value
            continue
        if not equals:
            if queue and not (queue[0].startswith("--") or queue[0] == "-c" or _BARE.match(queue[0])):
                value = queue.pop(0)
            elif name != "config":
                value = "true"
        if name == "config":
            _add_file(request, value)
        else:
            tree: dict[str, Any] = {}
            _put(tree, tuple(name.split(".")), parse_value(value))
            request.layers.append(Layer(tree, TYPED))
    request.layers.sort(key=lambda layer: layer.origin == TYPED)
    return request


def read_inputs(config: str | Path | Mapping[str, Any] | Iterable[Any] | None, overrides: Any = ()) -> Request:
    """Makes a :class:`Request` from Python values: a path, a short name, a mapping or a list of them, then overrides.

    Args:
        config: What the command accepts after ``--config``, or a mapping with the contents of such a file.
        overrides: A mapping with dotted keys, or strings as on the command line.
    """
    request = Request()
    items = [config] if isinstance(config, str | Path | Mapping) else list(config or [])
    for item in items:
        if isinstance(item, Mapping):
            request.layers.append(Layer(_expand(item), "Python"))
        else:
            _add_file(request, str(item))
    if isinstance(overrides, Mapping):
        request.layers.append(Layer(_expand(overrides), "Python"))
    else:
        more = read_command_line(list(overrides))
        request.layers += more.layers
        request.files += more.files
        request.method = request.method or more.method
        request.problems += more.problems
    return request


def _add_file(request: Request, name: str) -> None:
    if not name:
        request.problems.append("--config: a file or the short name of a shipped config is needed")
        return
    try:
        path = find_config(name)
        sourced = yaml12.Sourced(path)
        tree = {} if sourced.tree is None else sourced.tree
        if not isinstance(tree, dict):
            found = "a list" if isinstance(tree, list) else f"the text {str(tree)[:40]!r}"
            raise UserError(f"{path}: a mapping of settings is needed, found {found}")
    except UserError as error:
        request.problems.append(str(error))
        request.layers.append(Layer({}, ""))
        return
    request.problems += [
        f"{path}:{line}: {'.'.join(map(str, where))} is given twice (first on line {first})"
        for where, line, first in sourced.twice
    ]
    request.files.append(path)
    if request.method is None and "model" in tree:
        request.method = path.stem
    request.layers.append(Layer(_expand(tree), str(path), sourced.lines))


def _add_mapping(request: Request, text: str) -> None:
    value = parse_value(text)
    if isinstance(value, Mapping):
        request.layers.append(Layer(_expand(value), TYPED))
    else:
        request.problems.append(f"{text[:60]!r}: unexpected argument; a JSON mapping or --key=value is needed")


def _expand(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Turns dotted top-level keys (``model.lr: 1``) into nested mappings."""
    tree: dict[str, Any] = {}
    for key, value in mapping.items():
        plain = _expand(value) if isinstance(value, Mapping) and "." not in str(key) else value
        _put(tree, tuple(str(key).split(".")) if _DOTTED.match(str(key)) else (str(key),), plain)
    return tree


_DOTTED = re.compile(r"^(model|data|trainer|techniques|run|wandb)\.")


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for key in path[:-1]:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            inner = tree[key] = {} if inner is None else {"class_path": inner}
        tree = inner
    old = tree.get(path[-1])
    if isinstance(old, dict) and isinstance(value, dict):
        for key, item in value.items():
            _put(old, (key,), item)
    elif isinstance(old, dict) and isinstance(value, str):
        old["class_path"] = value
    else:
        tree[path[-1]] = value


def compose(
    request: Request,
    subcommand: str,
    techniques: Mapping[str, str],
    moves: Mapping[KeyPath, Mapping[str, str]] | None = None,
) -> Composed:
    """Merges the layers of a request.

    Args:
        request: The layers and options.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``; it decides which other keys are accepted.
        techniques: Maps each registered technique's name to its class path.
        moves: See :class:`Composed`.
    """
    composed = Composed(problems=list(request.problems), incomplete=any(not layer.origin for layer in request.layers))
    composed.moves = moves or {}
    composed.method = request.method or (request.files[0].stem if request.files else None)
    for layer in request.layers:
        _merge_layer(composed, layer)
    accepted = ("seed_everything", *CLASS_SECTIONS, "techniques", *GROUP_SECTIONS, *SUBCOMMAND_KEYS[subcommand])
    for key in [key for key in composed.tree if key not in accepted]:
        near = get_close_matches(key, accepted, n=1)
        hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(accepted)}"
        if key in {name for names in SUBCOMMAND_KEYS.values() for name in names}:
            hint = f"{subcommand} does not take it; accepted: {', '.join(SUBCOMMAND_KEYS[subcommand])}"
        composed.problems.append(f"{_cut(key)}: unknown key; {hint}{composed.origin((key,))}")
        del composed.tree[key]
    composed.tree = _at_home(composed.tree)
    _check_techniques(composed, techniques)
    return composed


def _at_home(value: Any) -> Any:
    """Replaces ``~`` by the user's home folder in every text that starts with ``~/``: no shell has done so."""
    if isinstance(value, dict):
        return {key: _at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _merge_layer(composed: Composed, layer: Layer) -> None:
    for key, value in layer.tree.items():
        if key == "techniques":
            if not isinstance(value, dict | None):
                composed.problems.append(
                    f"techniques: a mapping of names to settings is needed, found {brief(value)}{_place(layer, (key,))}"
                )
                continue
            composed.tree.setdefault(key, {})
            composed.origins.setdefault((key,), _place(layer, (key,), bare=True))
            for name, settings in (value or {}).items():
                _merge_section(composed, layer, (key, name), settings)
        elif key in CLASS_SECTIONS:
            _merge_section(composed, layer, (key,), value)
        elif key in GROUP_SECTIONS and not isinstance(value, dict):
            composed.problems.append(f"{key}: a mapping is needed, found {brief(value)}{_place(layer, (key,))}")
        else:
            _merge(composed.tree, key, value)
            _record(composed, layer, (key,), (key,), value)


def _merge_section(composed: Composed, layer: Layer, path: KeyPath, value: Any) -> None:
    """Merges a layer's settings of one class (model, data, a technique) in canonical form."""
    parent = composed.tree
    for key in path[:-1]:
        parent = parent.setdefault(key, {})
    name = path[-1]
    if value is None:
        parent[name] = None
        _record(composed, layer, path, path, value)
        return
    if isinstance(value, bool) or (path[0] == "techniques" and value in ("true", "True", "false", "False")):
        value = {} if value in (True, "true", "True") else None
        if value is None:
            parent[name] = None
            return
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, dict):
        composed.problems.append(
            f"{'.'.join(path)}: a class path or a mapping is needed, found {brief(value)}{_place(layer, path)}"
        )
        return
    canonical: dict[str, Any] = {}
    for key, item in value.items():
        place = (*path, key) if key in _CLASS_KEYS else (*path, "init_args", key)
        _record(composed, layer, (*path, key), place, item)
        if key in _CLASS_KEYS:
            if isinstance(item, dict) and isinstance(canonical.get(key), dict):
                canonical[key].update(item)
            else:
                canonical[key] = item
        else:
            canonical.setdefault("init_args", {})[key] = item
    canonical = _regrouped(composed, path, canonical)
    composed.origins.setdefault(path, _place(layer, path, bare=True))
    old = parent.get(name)
    if (
        isinstance(old, dict)
        and "class_path" in canonical
        and _other_class(old.get("class_path"), canonical["class_path"])
    ):
        parent[name] = old = None
        composed.moved.pop(".".join(path), None)
    if not isinstance(old, dict):
        parent[name] = {}
    for key, item in canonical.items():
        _merge(parent[name], key, item)


def _regrouped(composed: Composed, path: KeyPath, canonical: dict[str, Any]) -> dict[str, Any]:
    """What a layer says of one class, with the settings that have moved where they are now."""
    for place, moves in composed.moves.items():
        if place[: len(path)] != path:
            continue
        canonical = node = _copy(canonical)
        *way, last = place[len(path) :]
        for key in way:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), dict):
            node[last], made = regroup(node[last], moves)
            for old, new in made.items():
                composed.origins[(*place, *new.split("."))] = composed.origins.get((*place, old), "")
            if made:
                composed.moved.setdefault(".".join(key for key in place if key != "init_args"), {}).update(made)
    return canonical


def _other_class(old: Any, new: Any) -> bool:
    """Returns whether two class paths differ; a bare class name equals a path that ends in it."""
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    if "." in old and "." in new:
        return old != new
    return old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1]


def _merge(tree: dict[str, Any], key: str, value: Any) -> None:
    old = tree.get(key)
    if (
        isinstance(old, dict)
        and isinstance(value, dict)
        and not _other_class(old.get("class_path"), value.get("class_path"))
    ):
        for inner, item in value.items():
            _merge(old, inner, item)
    else:
        tree[key] = _copy(value)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _place(layer: Layer, path: KeyPath, bare: bool = False) -> str:
    line = layer.lines.get(path)
    text = f"{layer.origin}:{line}" if line else layer.origin
    return text if bare else f" ({text})"


def _record(composed: Composed, layer: Layer, given: KeyPath, place: KeyPath, value: Any) -> None:
    composed.origins[place] = _place(layer, given, bare=True)
    if isinstance(value, dict):
        for key, item in value.items():
            _record(composed, layer, (*given, str(key)), (*place, str(key)), item)


def _cut(key: str) -> str:
    return key if len(key) <= 60 else f"{key[:57]}..."


def _check_techniques(composed: Composed, registered: Mapping[str, str]) -> None:
    techniques = composed.tree.get("techniques") or {}
    composed.tree["techniques"] = kept = {}
    for name, settings in techniques.items():
        place = ("techniques", name)
        if not _IDENTIFIER.match(name):
            composed.problems.append(
                f"techniques.{_cut(name)}: a name is letters, digits and underscores (an identifier)"
                f"{composed.origin(place)}"
            )
        elif settings is None:
            continue
        elif "class_path" in settings:
            kept[name] = settings
        elif name in registered:
            kept[name] = {"class_path": registered[name], **settings}
        else:
            near = get_close_matches(name, registered, n=1)
            hint = f"did you mean {near[0]}?" if near else f"registered: {', '.join(sorted(registered)) or 'none'}"
            composed.problems.append(
                f"techniques.{_cut(name)}: not a registered technique, and no class_path is given; {hint}"
                f"{composed.origin(place)}"
            )
