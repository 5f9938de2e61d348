"""Resolves ``${data.num_classes}`` after all overrides, from given values or class defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from framework.config.compose import Composed, KeyPath

# ``${data.num_classes}`` is ``${data.init_args.num_classes}``, as in an override.
_SHORT = re.compile(r"(\$\{\s*(?:model|data|techniques\.\w+)\.)(?!init_args\b|class_path\b|dict_kwargs\b)")
_REFERENCE = re.compile(r"\$\{\s*([\w.]+)\s*\}")


def has_interpolation(value: Any) -> bool:
    """Returns whether ``${`` occurs anywhere in a tree."""
    if isinstance(value, Mapping):
        return any(has_interpolation(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(has_interpolation(item) for item in value)
    return isinstance(value, str) and "${" in value


def interpolate(composed: Composed, defaults: Callable[[], dict[str, Any]]) -> None:
    """Replaces every interpolation of ``composed.tree`` in place; failures are added to its problems.

    Args:
        composed: The merged tree.
        defaults: Called only if needed; returns a tree of class defaults, used for keys that were not given.
    """
    if not has_interpolation(composed.tree):
        return
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    broken: set[KeyPath] = set()
    renamed = {
        ".".join((*place, old)): ".".join((*place, new))
        for place, moves in composed.moves.items()
        for old, new in moves.items()
    }

    def short_forms(value: Any, path: KeyPath = ()) -> Any:
        if isinstance(value, Mapping):
            return {key: short_forms(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [short_forms(item, (*path, str(i))) for i, item in enumerate(value)]
        if not (isinstance(value, str) and "${" in value):
            return value
        value = _SHORT.sub(r"\1init_args.", value)
        value = _REFERENCE.sub(lambda found: f"${{{renamed.get(found[1], found[1])}}}", value)
        try:
            OmegaConf.create({"value": value})
        except GrammarParseError as error:
            broken.add(path)
            reason = str(error).splitlines()[0]
            composed.problems.append(f"{_spell(path)}: {value[:60]}: {reason}{composed.origin(path)}")
            return None
        return value

    context = OmegaConf.create(_under(defaults(), short_forms(composed.tree)), flags={"allow_objects": True})

    def resolve(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {key: resolve(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [resolve(item, (*path, str(i))) for i, item in enumerate(value)]
        if not (isinstance(value, str) and "${" in value) or path in broken:
            return value
        try:
            node = context
            for key in path[:-1]:
                node = node[int(key)] if OmegaConf.is_list(node) else node[key]
            found = node[int(path[-1])] if OmegaConf.is_list(node) else node[path[-1]]
        except (OmegaConfBaseException, RecursionError) as error:
            reason = "it refers to itself" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            composed.problems.append(f"{_spell(path)}: {value[:60]}: {reason}{composed.origin(path)}")
            return value
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    composed.tree = resolve(composed.tree, ())


def _under(defaults: Any, given: Any) -> Any:
    if isinstance(defaults, Mapping) and isinstance(given, Mapping):
        merged = {key: _under(defaults.get(key), item) for key, item in given.items()}
        return {**{key: item for key, item in defaults.items() if key not in merged}, **merged}
    return given


def _spell(path: KeyPath) -> str:
    return ".".join(key for key in path if key != "init_args")
