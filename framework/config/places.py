"""File paths in a config: settings that must name the same file from any working folder."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from framework.config.explain import UnknownClass, argument_defaults, dataclass_in, find_class, signature


def names_a_path(hint: Any) -> bool:
    """Returns whether a setting of this type is a path: its type allows ``Path``, as in ``str | Path | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(names_a_path(argument) for argument in typing.get_args(hint))
    return isinstance(hint, type) and issubclass(hint, PurePath)


def same_place(old: Any, new: Any) -> bool:
    """Returns whether two values of a path setting may be one file: the paths are equal, or the old one does not exist.

    The project's folder may have been moved since.
    """
    if not isinstance(old, str | Path) or not isinstance(new, str | Path):
        return bool(old == new)
    return Path(old).absolute() == Path(new).absolute() or not os.path.exists(old)


def make_absolute(tree: dict[str, Any], bases: Mapping[str, type]) -> None:
    """Makes paths of existing files and folders absolute, so that the saved config opens them from anywhere.

    Paths in the Trainer's settings stay as they are: they name folders to write to.

    Args:
        tree: The composed config, changed in place.
        bases: Base class of ``model``, ``data`` and ``techniques``.
    """
    for section in ("model", "data"):
        _class(tree.get(section), bases[section])
    for settings in (tree.get("techniques") or {}).values():
        _class(settings, bases["techniques"])


def _class(settings: Any, base: type) -> None:
    if not isinstance(settings, dict):
        return
    try:
        cls = find_class(settings.get("class_path"), base)
    except UnknownClass:  # reported when types are checked
        return
    given = settings.get("init_args")
    if given is None or isinstance(given, dict):
        _arguments(settings.setdefault("init_args", {}) if given is None else given, cls)


def _arguments(given: dict[str, Any], cls: type) -> None:
    hints = signature(cls)
    for name, (hint, _) in hints.items():
        if names_a_path(hint):
            value = given.get(name, argument_defaults(cls).get(name))
            if isinstance(value, str | PurePath) and str(value) and os.path.exists(value):
                given[name] = str(Path(value).absolute())
        elif name in given:
            _within(given[name], hint)


def _classes_in(hint: Any) -> list[type]:
    """Returns the classes that a type allows; a config can name their subclasses by bare class name."""
    inner = [cls for argument in typing.get_args(hint) for cls in _classes_in(argument)]
    return [hint] if isinstance(hint, type) and not inner else inner


def _within(value: Any, hint: Any) -> None:
    """Recurses into a list, a class or a dataclass that is the value of a setting."""
    if isinstance(value, list):
        for item in value:
            _within(item, hint)
    elif isinstance(value, dict) and "class_path" in value:
        for base in _classes_in(hint):
            _class(value, base)
    elif isinstance(value, dict) and (cls := dataclass_in(hint)) is not None:
        _arguments(value, cls)
