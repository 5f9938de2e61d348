"""Reads and writes YAML by the core schema of YAML 1.2, with the line of every key.

PyYAML follows YAML 1.1, where ``1e-4`` is text, ``no`` is false and ``1:30`` is ninety. Files, values inside
overrides, jsonargparse's parsing of strings and the saved config all use these functions, so that a saved value is read
back unchanged.
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

Place = tuple[Any, ...]
"""Keys and list indices, from the top level of a file."""
MOST = 1_000_000  # values in one file

_MAP, _TEXT, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "str", "merge"))
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
    """Writes YAML that :class:`Loader` reads back as the same value.

    It handles enums and paths itself: :func:`framework.plain.plain_data` needs torch, which ``list`` does not import.
    """

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Never writes anchors and aliases: they make a saved config hard to read."""
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
    """Reads a string whose type is a union, for jsonargparse; never turns a text into null."""
    value = _scalar(text)
    if value is _COLLECTION:
        value = load(text)
    return text if value is None else value


_COLLECTION = object()


@lru_cache(maxsize=4096)
def _scalar(text: str) -> Any:
    """Returns the value of a text, cached: jsonargparse reads the same few texts hundreds of times in a run."""
    value = load(text)
    return value if isinstance(value, str | int | float | None) else _COLLECTION


class Sourced:
    """The contents of a YAML file as plain values, with the line of every key and list item.

    Attributes:
        tree: The values; ``None`` if the file is empty.
        lines: Maps the position of each key or item to its line, counted from 1.
        twice: Keys that occur twice in one mapping, of which YAML uses the last: position, line, line of the first.

    Args:
        path: The file.
        loader: The loader: this module's for YAML 1.2, or ``yaml.SafeLoader`` for YAML 1.1.
        text_keys: Whether keys stay text, such as ``1`` and ``true``, and tags on mappings are refused; list items are
            left as the loader reads them.
        called: Kind of file, for messages.

    Raises:
        UserError: it cannot be read, is not valid YAML, or its aliases expand to too many values.
    """

    def __init__(
        self,
        path: Path,
        loader: type[yaml.SafeLoader] = Loader,
        text_keys: bool = True,
        called: str = "YAML or JSON",
    ) -> None:
        self.tree: Any = None
        self.lines: dict[Place, int] = {}
        self.twice: list[tuple[Place, int, int]] = []
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not a {called} file (not text: {error.reason})") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            self._read(loader(text), path, text_keys)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            line = mark.line + 1 if mark else None
            if isinstance(error, yaml.reader.ReaderError):  # a character that YAML does not allow
                line = text.count("\n", 0, error.position) + 1
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
            raise UserError(f"{path}{f':{line}' if line else ''}: not valid YAML: {problem}") from error
        except RecursionError as error:
            raise UserError(f"{path}: nested too deeply, or an alias that contains itself") from error
        except ValueError as error:  # such as a date that does not exist
            raise UserError(f"{path}: not valid YAML: {error}") from error

    def _read(self, loader: yaml.SafeLoader, path: Path, text_keys: bool) -> None:
        try:
            node = loader.get_single_node()
            if node is None:
                return
            if (size := _unfolded(node, {})) > MOST:
                raise UserError(f"{path}: its aliases expand to {size:.3g} values; at most {MOST:,} are read")
            self._find_twice(node, ())
            node = _with_text_keys(loader, node) if text_keys else node
            self.tree = loader.construct_document(node)
            self._find_lines(loader, node, ())
        finally:
            loader.dispose()

    def _find_twice(self, node: yaml.Node, where: Place) -> None:
        """Called before the loader merges: a key from ``<<`` may be given again beside it."""
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._find_twice(item, (*where, index))
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, _ in node.value:
                if key.tag != _MERGE and isinstance(key, yaml.ScalarNode):
                    line = key.start_mark.line + 1
                    if key.value in first:
                        self.twice.append(((*where, key.value), line, first[key.value]))
                    first.setdefault(key.value, line)
            for key, value in node.value:
                self._find_twice(value, (*where, str(key.value)))

    def _find_lines(self, loader: yaml.SafeLoader, node: yaml.Node, where: Place) -> None:
        """Called after the loader has merged."""
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*where, index)] = item.start_mark.line + 1
                self._find_lines(loader, item, (*where, index))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*where, loader.construct_object(key, deep=True))
                self.lines[place] = key.start_mark.line + 1
                self._find_lines(loader, value, place)


def _with_text_keys(loader: yaml.SafeLoader, node: yaml.Node) -> yaml.Node:
    """Returns a copy of a mapping's node with text keys at all levels; a copy, because aliases share one node."""
    if not isinstance(node, yaml.MappingNode):
        return node
    if node.tag != _MAP:
        raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not accepted", node.start_mark)
    loader.flatten_mapping(node)
    pairs = [
        (yaml.ScalarNode(_TEXT, str(key.value), key.start_mark, key.end_mark), _with_text_keys(loader, value))
        for key, value in node.value
    ]
    return yaml.MappingNode(_MAP, pairs, node.start_mark, node.end_mark)


def _unfolded(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Returns the number of values in a node, with every alias expanded."""
    if node not in known:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        items = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        known[node] = 1 + sum(_unfolded(item, known) for item in items)
    return known[node]
