"""Reports what is wrong with a config: every mistake that can be found, one line each.

jsonargparse stops at the first mistake and reports it in terms of its own types. This code runs only after jsonargparse
has refused a config: it goes through the sections again, checks one argument at a time, and names the nearest match.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from framework.config.compose import CLASS_SECTIONS, Composed, KeyPath
from framework.settings import brief, not_one_of


class UnknownClass(Exception):
    """Raised if a class path does not lead to a class; the message names the part that could not be found."""


def find_class(path: Any, base: type) -> type:
    """Returns the class at a dotted path, or the imported subclass of ``base`` with that bare name.

    Raises:
        UnknownClass: there is no such class, or it is not a subclass of ``base``.
    """
    if not isinstance(path, str) or not path:
        raise UnknownClass(f"a class path is needed, found {brief(path)}")
    if "." not in path:
        match = next((cls for cls in _subclasses(base) if cls.__name__ == path), None)
        if match is None:
            raise UnknownClass(f"{brief(path)} is no known class; give its full path, package.module.Class")
        return match
    module_path, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        missing = error.name or module_path
        if module_path == missing or module_path.startswith(f"{missing}."):
            raise UnknownClass(f"{brief(path)}: no module {brief(missing)}{_near_module(missing)}") from error
        raise UnknownClass(f"{brief(path)}: importing it failed: {error}") from error
    except ImportError as error:
        raise UnknownClass(f"{brief(path)}: importing it failed: {error}") from error
    except (ValueError, TypeError) as error:  # an empty name, or one that starts with a dot
        raise UnknownClass(f"{brief(path)} is not a class path") from error
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
        near = get_close_matches(name, classes, n=3) or classes[:5]
        raise UnknownClass(
            f"{brief(path)}: {module_path} has no {brief(name)}; it has {', '.join(near) or 'none of this kind'}"
        )
    if not isinstance(found, type) or not issubclass(found, base):
        raise UnknownClass(f"{brief(path)} is not a {base.__name__}")
    return found


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in type.__subclasses__(base):  # includes the subclasses of ``type``
        yield cls
        yield from _subclasses(cls)


def _near_module(missing: str) -> str:
    parent, _, name = missing.rpartition(".")
    try:
        places = importlib.import_module(parent).__path__ if parent else []
    except (ImportError, AttributeError):
        return ""
    stems = {p.stem for place in places for p in Path(place).iterdir() if p.suffix == ".py" or p.is_dir()}
    near = get_close_matches(name, sorted(s for s in stems if not s.startswith(("_", "."))), n=3)
    return f"; nearest: {', '.join(f'{parent}.{n}' for n in near)}" if near else ""


@cache
def argument_defaults(cls: type) -> dict[str, Any]:
    """Returns the constructor arguments of ``cls`` with their defaults, following ``**kwargs`` to the base classes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "x", fail_untyped=False)
    namespace = parser.get_defaults().get("x")
    return {} if namespace is None else namespace.as_dict()


@cache
def signature(cls: type) -> dict[str, tuple[Any, bool]]:
    """Maps each argument's name to its type and whether it is required, the nearest class first."""
    found: dict[str, tuple[Any, bool]] = {}
    for owner in cls.__mro__:
        init = owner.__dict__.get("__init__")
        if init is None or owner is object:
            continue
        try:
            hints = typing.get_type_hints(init)
        except Exception:  # an annotation that only a type checker can resolve
            hints = {}
        for name, parameter in inspect.signature(init).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or name == "self":
                continue
            hint = hints.get(name, parameter.annotation)
            found.setdefault(name, (hint, parameter.default is parameter.empty))
    return found


def type_text(hint: Any) -> str:
    """Returns the name of a type in plain words."""
    if hint in (inspect.Parameter.empty, Any):
        return "any value"
    if hint is type(None):
        return "null"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin in (list, tuple, set) and arguments:
        return f"a list of {type_text(arguments[0])}"
    if origin in (dict, Mapping) or hint is dict:
        return "a mapping"
    names: dict[Any, str] = {int: "an integer", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return names.get(hint) or str(getattr(hint, "__name__", hint)).replace("typing.", "")


def explain(composed: Composed, bases: Mapping[str, type], groups: Mapping[str, Callable[..., Any]]) -> list[str]:
    """Returns every mistake in the part of a composed config whose types are checked.

    Args:
        composed: The merged and interpolated tree.
        bases: Base class of ``model``, ``data`` and ``techniques``.
        groups: Class of each plain section: ``trainer``, ``run``, ``wandb``.
    """
    problems: list[str] = []
    tree = composed.tree
    for section in CLASS_SECTIONS:
        settings = tree.get(section)
        if settings is None:
            if section == "model" and not composed.incomplete:
                problems.append("model: missing; give a class path, in a config or as --model=package.module.Class")
            continue
        problems += _explain_class(composed, (section,), settings, bases[section])
    for name, settings in (tree.get("techniques") or {}).items():
        problems += _explain_class(composed, ("techniques", name), settings, bases["techniques"])
    for section, cls in groups.items():
        if isinstance(tree.get(section), dict):
            problems += _explain_arguments(composed, (section,), (section,), tree[section], cls, required=False)
    return problems


def _explain_class(composed: Composed, path: KeyPath, settings: Any, base: type) -> list[str]:
    key = ".".join(path)
    if not isinstance(settings, dict) or "class_path" not in settings:
        return [f"{key}: class_path is missing{composed.origin(path)}"]
    if not isinstance(settings["class_path"], str):
        return [
            f"{key}: a class path is needed, found {brief(settings['class_path'])}"
            f"{composed.origin((*path, 'class_path'))}"
        ]
    try:
        cls = find_class(settings["class_path"], base)
    except UnknownClass as error:
        return [f"{key}: {error}{composed.origin((*path, 'class_path'))}"]
    arguments = settings.get("init_args") or {}
    if not isinstance(arguments, dict):
        return [
            f"{key}.init_args: a mapping is needed, found {brief(arguments)}{composed.origin((*path, 'init_args'))}"
        ]
    return _explain_arguments(composed, path, (*path, "init_args"), arguments, cls, required=True)


def _explain_arguments(
    composed: Composed, shown: KeyPath, path: KeyPath, given: Mapping[str, Any], cls: Any, required: bool
) -> list[str]:
    problems = []
    accepted = argument_defaults(cls)
    hints = signature(cls) if isinstance(cls, type) else {}
    inner = {name: dataclass_in(hints[name][0]) if name in hints else None for name in given}
    whole = {
        name: value
        for name, value in given.items()
        if name in accepted and not (isinstance(value, dict) and ("class_path" in value or inner[name]))
    }
    refused = _refused(cls, whole, accepted)
    for name, value in given.items():
        key, place = ".".join((*shown, name)), composed.origin((*path, name))
        if name not in accepted:
            near = get_close_matches(name, accepted, n=1)
            hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(accepted) or 'none'}"
            problems.append(f"{key}: {cls.__name__} has no such argument; {hint}{place}")
            continue
        hint = hints.get(name, (inspect.Parameter.empty, False))[0]
        part = inner[name]
        if isinstance(value, dict) and "class_path" in value:
            problems += _explain_nested(composed, (*shown, name), (*path, name), value)
        elif part is not None and isinstance(value, dict):
            problems += _explain_arguments(composed, (*shown, name), (*path, name), value, part, required=True)
        elif any(problem.startswith((f"{key}:", f"{key}.")) for problem in composed.problems):
            continue  # reported already: it could not be resolved
        elif name in refused:
            problems.append(f"{key}: {_refusal(value, hint)}{place}")
    if required:
        for name, (hint, needed) in hints.items():
            if needed and name in accepted and name not in given:
                problems.append(
                    f"{'.'.join((*shown, name))}: missing; {cls.__name__} needs it ({type_text(hint)})"
                    f"{composed.origin(shown)}"
                )
    return problems


def _refusal(value: Any, hint: Any) -> str:
    choices = _choices(hint)
    if choices and isinstance(value, str):
        return not_one_of(value, choices)
    return f"{brief(value)} is not accepted; {type_text(hint)} is needed"


def _choices(hint: Any) -> list[Any]:
    """What a ``Literal``, or one beside null, has; nothing of another type."""
    several = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [kind for kind in several if kind is not type(None)]
    literal = all(typing.get_origin(kind) is typing.Literal for kind in kinds)
    return [choice for kind in kinds for choice in typing.get_args(kind)] if literal else []


def _explain_nested(composed: Composed, shown: KeyPath, path: KeyPath, value: dict[str, Any]) -> list[str]:
    try:
        cls = find_class(value["class_path"], object)
    except UnknownClass as error:
        return [f"{'.'.join(shown)}: {error}{composed.origin((*path, 'class_path'))}"]
    return _explain_arguments(composed, shown, (*path, "init_args"), value.get("init_args") or {}, cls, required=True)


def dataclass_in(hint: Any) -> type | None:
    """Returns the dataclass that a type is, or that it allows."""
    candidates = [hint, *typing.get_args(hint)]
    return next((c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c)), None)


def _refused(cls: Any, given: Mapping[str, Any], accepted: Mapping[str, Any]) -> set[str]:
    """Returns the arguments whose values ``cls`` does not accept; by bisection, as mistakes are few."""
    if not given or _takes(cls, given, accepted):
        return set()
    names = list(given)
    if len(names) == 1:
        return set(names)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return {found for half in halves for found in _refused(cls, {name: given[name] for name in half}, accepted)}


def _takes(cls: Any, given: Mapping[str, Any], accepted: Mapping[str, Any]) -> bool:
    parser = ArgumentParser(exit_on_error=False, parser_mode="yaml12")
    parser.add_class_arguments(cls, "x", skip=accepted.keys() - given.keys(), fail_untyped=False)
    try:
        parser.parse_object({"x": copy.deepcopy(dict(given))})
    except (ArgumentError, TypeError, ValueError, KeyError, ArithmeticError):
        return False
    return True
