"""Turns the type-checked config into plain data that parses again to the same config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from framework.config.compose import CLASS_SECTIONS, Composed, KeyPath
from framework.config.explain import UnknownClass, argument_defaults, dataclass_in, find_class, signature
from framework.errors import UserError
from framework.settings import brief

UNABLE = "Unable to serialize instance "
"""Prefix of the text that jsonargparse writes, without an error, for an object that it cannot serialize."""


def mend(
    dumped: dict[str, Any], typed: Namespace, composed: Composed, bases: Mapping[str, type], groups: Mapping[str, type]
) -> None:
    """Corrects the parts of jsonargparse's dump of a config that would not parse again.

    An argument whose default is an object (a device, a module, a function without a name) and that was not changed is
    left out, because parsing sets the default again. A text that may also be the import path of a callable is written
    unchanged.

    Args:
        dumped: The dump, changed in place.
        typed: The type-checked config that was dumped.
        composed: The composed config from which ``typed`` was made.
        bases: Base class of ``model``, ``data`` and ``techniques``.
        groups: Class of each plain section: ``trainer``, ``run``, ``wandb``.

    Raises:
        UserError: an object in the config cannot be written.
    """
    sections: list[tuple[KeyPath, Any]] = [((section,), bases[section]) for section in CLASS_SECTIONS]
    sections += [(("techniques", name), bases["techniques"]) for name in composed.tree.get("techniques") or {}]
    sections += [((section,), group) for section, group in groups.items()]
    for path, cls in sections:
        nodes: list[Any] = [dumped, typed, composed.tree]
        for key in path:
            nodes = [node[key] if node is not None and key in node else None for node in nodes]
        _value(nodes[0], nodes[1], nodes[2], cls, path)


def _value(dumped: Any, typed: Any, given: Any, hint: Any, path: KeyPath) -> None:
    """Recurses into a class, a dataclass or a list of them."""
    if isinstance(dumped, list) and isinstance(typed, list | tuple):
        several = given if isinstance(given, list | tuple) and len(given) == len(dumped) else [None] * len(dumped)
        for number, (written, item, was) in enumerate(zip(dumped, typed, several, strict=True)):
            _value(written, item, was, None, (*path, str(number)))
    if not isinstance(dumped, dict) or not isinstance(typed, Namespace):
        return
    if isinstance(given, Mapping) and "class_path" in given:
        given = given.get("init_args")
    if "class_path" not in typed:
        _arguments(dumped, typed, given, hint if isinstance(hint, type) else dataclass_in(hint), path)
    elif isinstance(dumped.get("init_args"), dict):
        try:
            cls = find_class(typed["class_path"], object)
        except UnknownClass:  # a function that returns one
            cls = None
        _arguments(dumped["init_args"], typed["init_args"], given, cls, path)


def _arguments(dumped: dict[str, Any], typed: Namespace, given: Any, cls: type | None, path: KeyPath) -> None:
    hints = signature(cls) if cls is not None else {}
    for name in list(dumped):
        value, hint = typed[name], hints.get(name, (None, False))[0]
        was_given = isinstance(given, Mapping) and name in given
        if _is_plain(value):
            dumped[name] = _texts(dumped[name], value)
        elif isinstance(value, Namespace) or (isinstance(value, list) and any(isinstance(v, Namespace) for v in value)):
            _value(dumped[name], value, given[name] if was_given else None, hint, (*path, name))
        elif not _reads_back(cls, name, dumped[name], value):
            if was_given:
                key = ".".join((*path, name))
                raise UserError(
                    f"{key}: {brief(value)} cannot be written into config.yaml, so the run could not be repeated; "
                    "a value, an import path, or class_path and init_args are needed"
                )
            del dumped[name]


def _is_plain(value: Any) -> bool:
    """Returns whether YAML can write a value; jsonargparse reads a path, an enum and a time back by their types."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple | set) and type(value) in (list, tuple, set):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | Enum | PurePath | timedelta)


def _texts(dumped: Any, value: Any) -> Any:
    """Returns the dump with the original texts where jsonargparse took them for import paths of callables."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value if isinstance(dumped, str) and dumped.startswith(UNABLE) else dumped
    if isinstance(value, list | tuple) and isinstance(dumped, list) and len(dumped) == len(value):
        return [_texts(*items) for items in zip(dumped, value, strict=True)]
    if isinstance(value, Mapping) and isinstance(dumped, dict):
        return {key: _texts(item, value.get(key)) for key, item in dumped.items()}
    return dumped


def _reads_back(cls: Any, name: str, dumped: Any, value: Any) -> bool:
    """Returns whether an argument gets the same value from its dump."""
    if UNABLE in str(dumped) or not isinstance(cls, type):
        return UNABLE not in str(dumped)
    accepted: Mapping[str, Any] = argument_defaults(cls)
    parser = ArgumentParser(exit_on_error=False, parser_mode="yaml12")
    parser.add_class_arguments(cls, "x", skip=accepted.keys() - {name}, fail_untyped=False)
    try:
        return bool(parser.parse_object({"x": {name: copy.deepcopy(dumped)}})["x"][name] == value)
    except (ArgumentError, TypeError, ValueError, KeyError, ArithmeticError, RuntimeError):
        return False
