"""YAML as its 1.2 core schema has it, with the place of every key.

PyYAML follows YAML 1.1, where ``1e-4`` is text, ``no`` is false and ``1:30`` is ninety. Files, values inside
overrides, jsonargparse's second look at strings and the saved config all go through this one reading and writing, so
that what was saved reads back as what it was.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import yaml
from yaml import YAMLError

from framework.errors import UserError

Path_ = tuple[str, ...]
MOST = 1_000_000  # values of one file

_RESOLVERS = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN"),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "int": (re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    "float": (
        re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
        "-+0123456789.",
    ),
    "merge": (re.compile(r"^(?:<<)$"), "<"),
}  # fmt: skip


def _resolvers() -> dict[str | None, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}
    for kind in ("bool", "int", "float", "merge", "null"):
        pattern, first = _RESOLVERS[kind]
        for character in (*first, *([""] if kind == "null" else [])):
            table.setdefault(character, []).append((f"tag:yaml.org,2002:{kind}", pattern))
    return table


class Loader(yaml.SafeLoader):
    """A safe loader with the core schema of YAML 1.2, and ``<<`` merge keys."""

    yaml_implicit_resolvers = _resolvers()


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 0) if node.value[:2] in ("0o", "0x") else int(node.value)


def _construct_float(loader: Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class Dumper(yaml.SafeDumper):
    """Writes what :class:`Loader` reads back as the same value."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Anchors in a saved config would help nobody."""
        return True


def _represent_float(dumper: Dumper, value: float) -> yaml.ScalarNode:
    text = ".nan" if value != value else repr(value).replace("inf", ".inf")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


Dumper.add_representer(float, _represent_float)
Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))
Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))
Dumper.add_multi_representer(PurePath, lambda dumper, value: dumper.represent_str(str(value)))


def dump(value: Any) -> str:
    """Writes ``value`` as YAML, keys in their given order."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def load(text: str) -> Any:
    """Reads one YAML value.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    return yaml.load(text, Loader=Loader)


def load_string(text: str) -> Any:
    """What jsonargparse calls for the text of a string whose type is a union: never makes null of a text."""
    value = _scalar(text)
    if value is _COLLECTION:
        value = load(text)
    return text if value is None else value


_COLLECTION = object()


@lru_cache(maxsize=4096)
def _scalar(text: str) -> Any:
    """The value of a text that holds one, kept: jsonargparse asks for the same few texts hundreds of times a run."""
    value = load(text)
    return value if isinstance(value, str | int | float | None) else _COLLECTION


class Sourced:
    """A mapping read from a file, with the line of every key.

    Attributes:
        tree: The plain mapping.
        lines: Key path to line number, counted from 1.
        problems: Keys that stand twice in one mapping, as messages.

    Args:
        path: The file, YAML or JSON.

    Raises:
        UserError: it cannot be read, is not valid YAML, holds no mapping, or its aliases unfold to too much.
    """

    def __init__(self, path: Path) -> None:
        self.tree: dict[str, Any] = {}
        self.lines: dict[Path_, int] = {}
        self.problems: list[str] = []
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not a YAML or JSON file (not text: {error.reason})") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            loader = Loader(text)
        except YAMLError as error:  # a character that no YAML file holds
            line = text.count("\n", 0, getattr(error, "position", 0)) + 1
            raise UserError(f"{path}:{line}: not valid YAML: {getattr(error, 'reason', None) or error}") from error
        try:
            node = loader.get_single_node()
            if node is None:
                return
            if not isinstance(node, yaml.MappingNode):
                raise UserError(f"{path}: a mapping of settings is needed, found {_kind(node)}")
            if (size := _unfolded(node, {})) > MOST:
                raise UserError(f"{path}: its aliases unfold to {size:.3g} values; at most {MOST:,} are read")
            self.path = path
            self.tree = self._mapping(loader, node, ())
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            place = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
            raise UserError(f"{path}{place}: not valid YAML: {problem}") from error
        except RecursionError as error:
            raise UserError(f"{path}: nested too deeply, or an alias that contains itself") from error
        finally:
            loader.dispose()

    def _mapping(self, loader: Loader, node: yaml.MappingNode, prefix: Path_) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not accepted", node.start_mark)
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                self.problems.append(
                    f"{self.path}:{line}: {'.'.join((*prefix, key))} stands twice (first on line {seen[key]})"
                )
            seen[key] = line
        loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.lines[(*prefix, key)] = key_node.start_mark.line + 1
            if isinstance(value_node, yaml.MappingNode):
                result[key] = self._mapping(loader, value_node, (*prefix, key))
            else:
                result[key] = loader.construct_object(value_node, deep=True)
        return result


def _unfolded(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many values a node holds, with every alias written out."""
    if node not in known:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        items = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        known[node] = 1 + sum(_unfolded(item, known) for item in items)
    return known[node]


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else f"the text {str(node.value)[:40]!r}"
