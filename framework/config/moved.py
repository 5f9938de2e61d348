"""Settings that have moved into a group: a config or a checkpoint with their former names is read as before.

A class says where its former arguments are now, and what its base classes say holds too::

    moved = {"temperature": "generation.temperature"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any


def moves_of(cls: type) -> dict[str, str]:
    """Each former argument of a class, and the dotted name that it has now."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        found |= owner.__dict__.get("moved", {})
    return found


def regroup(arguments: Mapping[str, Any], moves: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments with those that have moved in their groups.

    Args:
        arguments: A constructor's; not changed.
        moves: See :func:`moves_of`.

    Returns:
        The arguments, and the moves that were made.
    """
    found, made = dict(arguments), {}
    # a group may have the name of one of its settings, which comes first: then it is a group that the others join
    for old, new in sorted(moves.items(), key=lambda move: move[0] != move[1].split(".")[0]):
        group, *names = new.split(".")
        if old in arguments and not (old == group and _is_group(arguments[old])):
            value = found.pop(old)
            found[group] = _put(found.get(group), names, value)
            made[old] = new
    return found, made


def _is_group(value: Any) -> bool:
    return value is None or isinstance(value, Mapping) or is_dataclass(value)


def _put(group: Any, names: list[str], value: Any) -> Any:
    if not names:
        return value
    if is_dataclass(group) and not isinstance(group, type):
        return replace(group, **{names[0]: _put(getattr(group, names[0]), names[1:], value)})
    inner = dict(group or {})
    inner[names[0]] = _put(inner.get(names[0]), names[1:], value)
    return inner
