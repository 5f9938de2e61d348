"""Finds values that pass the type check but cannot be used: null where it is not accepted, NaN, 10^400."""

from __future__ import annotations

import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from framework.config import yaml12
from framework.config.compose import CLASS_SECTIONS, Composed, KeyPath
from framework.config.explain import UnknownClass, argument_defaults, dataclass_in, find_class, signature, type_text
from framework.settings import brief


def unusable(composed: Composed, bases: Mapping[str, type], groups: Mapping[str, Callable[..., Any]]) -> list[str]:
    """Yields a message for each null that its argument does not accept, and for each number that is NaN or too large.

    Args:
        composed: The merged and interpolated tree.
        bases: Base class of ``model``, ``data`` and ``techniques``.
        groups: Class of each plain section: ``trainer``, ``run``, ``wandb``.
    """
    problems: list[str] = []
    places: list[KeyPath] = [(section,) for section in CLASS_SECTIONS if composed.tree.get(section)]
    places += [("techniques", name) for name in composed.tree.get("techniques") or {}]
    for place in places:
        settings: Any = composed.tree
        for key in place:
            settings = settings[key]
        try:
            cls = find_class(settings.get("class_path"), bases[place[0]])
        except UnknownClass:
            continue
        problems += _arguments(composed, place, (*place, "init_args"), settings.get("init_args"), cls)
    for section, group in groups.items():
        problems += _arguments(composed, (section,), (section,), composed.tree.get(section), group)
    return problems


def _arguments(composed: Composed, shown: KeyPath, path: KeyPath, given: Any, cls: Any) -> Iterator[str]:
    if not isinstance(given, Mapping) or not isinstance(cls, type):
        return
    hints, defaults = signature(cls), argument_defaults(cls)
    for name, value in given.items():
        key, place = ".".join((*shown, str(name))), composed.origin((*path, name))
        hint = hints.get(name, (Any, False))[0]
        inner = dataclass_in(hint)
        if value is None:
            if not _takes_null(hint) and not (name in defaults and defaults[name] is None and not hints[name][1]):
                yield f"{key}: null is not accepted; {type_text(hint)} is needed{place}"
        elif (found := _no_number(_typed(value, hint))) is not None:
            yield f"{key}: {brief(value)} is not accepted; {found}{place}"
        elif inner is not None:
            yield from _arguments(composed, (*shown, name), (*path, name), value, inner)


def _takes_null(hint: Any) -> bool:
    if hint in (inspect.Parameter.empty, Any, None, type(None), object) or isinstance(hint, str | typing.TypeVar):
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_takes_null(argument) for argument in arguments)
    if origin is typing.Annotated:
        return _takes_null(arguments[0])
    return origin is typing.Literal and None in arguments


def _typed(value: Any, hint: Any) -> Any:
    """Converts a number that was given on the command line and is still text."""
    if not (isinstance(value, str) and {"a number", "an integer"} & set(type_text(hint).split(" or "))):
        return value
    try:
        return float(value) if value in ("nan", "inf", "-inf") else yaml12.load(value)
    except (yaml12.YAMLError, ValueError):
        return value


def _no_number(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _no_number(item))), None)
    if isinstance(value, float) and math.isnan(value):
        return "NaN is no number"
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "a number of so many digits is beyond every type"
    return None
