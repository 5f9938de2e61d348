"""Lists each paper with everything in this project that belongs to it, from the sources.

A paper is identified by its arXiv number. A method or a technique belongs to those on the ``Paper:`` line of its
docstring; a technique, a datamodule or a file of ``framework/functional`` also to those that its docstring names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from framework import paths
from framework.catalogue import Entry, datamodule_entries, docstring, method_entries, technique_entries
from framework.config.yaml12 import load
from framework.errors import UserError
from framework.pages.markdown import cell, table

NUMBER = re.compile(r"\b\d{4}\.\d{4,5}(?=v\d+\b|\b)")


@dataclass(frozen=True)
class Part:
    """One line of a paper's section.

    Attributes:
        label: Name of the list.
        items: Texts, each with its file or folder, relative to the project.
    """

    label: str
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
        name: Name of its method or technique.
        number: Its arXiv number.
        title: Its title.
        own: The methods and techniques that implement it, methods first.
        methods: The methods among them, and the methods that name it besides their own paper.
        techniques: The techniques among them, and the techniques that name it anywhere in their docstring.
    """

    name: str
    number: str
    title: str
    own: tuple[Entry, ...]
    methods: tuple[Entry, ...]
    techniques: tuple[Entry, ...]


def numbers(text: str) -> list[str]:
    """Returns the arXiv numbers in a text, each once."""
    return list(dict.fromkeys(NUMBER.findall(text)))


@cache
def papers() -> list[Paper]:
    """Returns every paper that a method or a technique implements, by name."""
    methods, techniques = method_entries(), technique_entries()
    about: dict[str, list[Entry]] = {}
    for entry in (*methods, *techniques):
        if not entry.paper.startswith("none"):
            for number in numbers(entry.paper)[:1]:
                about.setdefault(number, []).append(entry)
    named = [(entry, numbers(docstring(_file_of(entry.class_path)))) for entry in techniques]
    found = []
    for number, own in about.items():
        using = [entry for entry, known in named if number in known and entry not in own]
        found.append(
            Paper(
                own[0].name,
                number,
                _title(own[0].paper, number),
                tuple(own),
                tuple(entry for entry in methods if number in numbers(entry.paper)),
                (*(entry for entry in own if entry in techniques), *using),
            )
        )
    return sorted(found, key=lambda paper: paper.name)


def find_paper(asked: str) -> Paper:
    """Finds a paper by its arXiv number, by the name of a method or technique, or by words of its title.

    Raises:
        UserError: there is no such paper, or there are several.
    """
    listed = papers()
    asked = next(iter(numbers(asked)), asked)  # a URL, or a number with its version
    name = asked.lower()
    kinds: tuple[Callable[[Paper], bool], ...] = (
        lambda paper: name in (paper.number, paper.name),
        lambda paper: name in (entry.name for entry in paper.own),
        lambda paper: name in (entry.name for entry in (*paper.methods, *paper.techniques)),
        lambda paper: name in paper.title.lower(),
    )
    fitting = next((found for kind in kinds if (found := [paper for paper in listed if kind(paper)])), [])
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        which = ", ".join(f"{paper.name} ({paper.number})" for paper in fitting)
        raise UserError(f"list: {asked!r} matches several papers: {which}")
    names = [paper.name for paper in listed]
    near = get_close_matches(asked, names, n=1)
    accepted = f"accepted: an arXiv number, words of a title, or one of {', '.join(names)}"
    raise UserError(f"list: {asked!r} is not a paper here; {f'did you mean {near[0]}?' if near else accepted}")


def as_text(paper: Paper) -> str:
    """Returns a paper as text for a terminal."""
    lines = [f"{paper.title}, arXiv {paper.number}", ""]
    for part in parts_of(paper):
        label = part.label
        for text, place in part.items:
            lines.append(f"  {label:<12} {text}{f'  {place}' if place != text else ''}")
            label = ""
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """Returns the page: a table of all papers, and a section for each."""
    listed = papers()
    rows = [
        (
            f"[{cell(paper.title)}](#{paper.name})",
            _link(paper),
            ", ".join(f"`{entry.name}`" for entry in paper.methods),
            ", ".join(f"`{entry.name}`" for entry in paper.techniques),
        )
        for paper in listed
    ]
    lines = [table(("paper", "arXiv", "method", "techniques"), rows), ""]
    for paper in listed:
        lines += [f"### {paper.name}", "", f"{paper.title}, {_link(paper)}.", ""]
        for part in parts_of(paper):
            lines.append(f"- {part.label}: {', '.join(f'[`{text}`](../{place})' for text, place in part.items)}")
        lines.append("")
    return "\n".join(lines)


def _link(paper: Paper) -> str:
    return f"[{paper.number}](https://arxiv.org/abs/{paper.number})"


def parts_of(paper: Paper) -> list[Part]:
    """Returns the parts of a paper in the recommended reading order."""
    home = [_home(entry) for entry in paper.own]
    mathematics = _mathematics(paper.number, home)
    configs = dict.fromkeys(name for entry in paper.own for name in entry.configs)
    claims = [entry for entry in (*paper.own, *paper.methods) if entry.claims][:1]
    tests = dict.fromkeys(_relative(test) for place in (*home, *mathematics) for test in _tests(place))
    page = paths.root() / "docs" / "results.md"
    known = page.read_text(encoding="utf-8") if page.is_file() else ""
    results = [f"docs/results.md#{entry.name}" for entry in claims if f"\n## {entry.name}\n" in known]
    parts = [
        Part("module", tuple((entry.class_path, _relative(_home(entry))) for entry in paper.methods)),
        Part("data", tuple((name, _relative(_file_of(name))) for name in _data(paper))),
        Part("techniques", tuple((entry.name, _relative(_home(entry))) for entry in paper.techniques)),
        Part("configs", tuple((name, _relative(paths.shipped_configs()[name])) for name in configs)),
        Part("mathematics", tuple((_relative(path), _relative(path)) for path in mathematics)),
        Part("claims", tuple((f"reproduce {entry.name}", _relative(_file_of(entry.claims))) for entry in claims)),
        Part("tests", tuple((text, text) for text in tests)),
        Part("results", tuple((text, text) for text in results)),
    ]
    return [part for part in parts if part.items]


def _title(text: str, number: str) -> str:
    """Returns the title before a number: the words in quotes, else those before the bracket with the authors."""
    before = text[: text.index(number)]
    before = before[max((before.rfind(other) + len(other) for other in numbers(before)), default=0) :]
    quoted = re.findall(r'"([^"]+)"', before)
    return quoted[-1] if quoted else before.lstrip("); ").partition(" (")[0]


def _file_of(dotted: str) -> Path:
    """Returns the file of a module, or of the module of a class."""
    names = dotted.split(".")
    while names:
        path = paths.root().joinpath(*names)
        if path.is_dir():
            return path / "__init__.py"
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        names.pop()
    return paths.root()


def _home(entry: Entry) -> Path:
    """Returns the folder of a method or technique, or its only file."""
    source = _file_of(entry.class_path)
    return source.parent if source.name == "__init__.py" else source


def _relative(path: Path) -> str:
    return path.relative_to(paths.root()).as_posix() if path.is_relative_to(paths.root()) else str(path)


def _files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _mathematics(number: str, home: Iterable[Path]) -> list[Path]:
    """Returns the files of ``framework/functional`` that name the paper, or that its own files import."""
    imported = set()
    for node in (n for place in home for file in _files(place) for n in ast.walk(ast.parse(file.read_text("utf-8")))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("framework.functional"):
            imported |= {_file_of(f"{node.module}.{alias.name}") for alias in node.names}
    shared = _files(paths.root() / "framework" / "functional")
    return [path for path in shared if path in imported or number in numbers(docstring(path))]


def _data(paper: Paper) -> list[str]:
    """Returns class paths of the data in the paper's configs, and of the data whose docstring names the paper."""
    named = []
    for name in (name for entry in (*paper.own, *paper.methods) for name in entry.configs):
        data = (load(paths.shipped_configs()[name].read_text(encoding="utf-8")) or {}).get("data")
        named.append(data.get("class_path") if isinstance(data, dict) else data)
    named += [name for name, known in _numbers_of_data() if paper.number in known]
    return [name for name in dict.fromkeys(named) if name]


@cache
def _numbers_of_data() -> list[tuple[str, list[str]]]:
    """Maps the class path of every datamodule to the papers that its file names."""
    return [(e.class_path, numbers(docstring(_file_of(e.class_path)))) for e in datamodule_entries()]


def _tests(place: Path) -> list[Path]:
    mirror = paths.root() / "tests" / _relative(place)
    if place.is_dir():
        return [mirror] if mirror.is_dir() else []
    return sorted(mirror.parent.glob(f"test_{place.stem}.py")) + sorted(mirror.parent.glob(f"test_{place.stem}_*.py"))
