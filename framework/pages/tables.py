"""Writes the catalogue as Markdown tables into marked blocks of pages.

A page has ``<!-- generated: methods -->`` and, after the table, ``<!-- end -->``. ``list --markdown README.md``
replaces the text between the two; ``make docs`` does so for every page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from framework import catalogue
from framework.catalogue import Entry, datamodule_entries, method_entries, sweep_entries, technique_entries
from framework.errors import UserError
from framework.pages import papers
from framework.pages.markdown import table

_BLOCK = re.compile(r"(?P<start><!-- generated: (?P<name>[^\n]*?) -->\n)(?P<old>.*?)(?P<end><!-- end -->)", re.DOTALL)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table(header, ([cell.replace("|", r"\|") for cell in row] for row in rows)) + "\n"


def _text(docstring: str) -> str:
    plain = re.sub(r":\w+:`[~.]?([^`]*)`", r"``\1``", docstring)
    return plain.replace("``", "`").rstrip(".")


def _papers(text: str) -> str:
    """Returns links to the arXiv numbers in a ``Paper:`` line."""
    return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in papers.numbers(text))


def _configs(names: Sequence[str]) -> str:
    """Returns a name and those that extend it, in a shell's notation: ``sequence/s4d{,_paper}``."""
    if len(names) == 1:
        return f"`{names[0]}`"
    return f"`{names[0]}{{{','.join(name.removeprefix(names[0]) for name in names)}}}`"


def methods() -> str:
    """Returns the table of methods: what each is, its paper and its configs."""
    rows = [(f"`{e.name}`", _text(e.summary), _papers(e.paper), _configs(e.configs)) for e in method_entries()]
    return _table(("method", "what it is", "arXiv", "configs"), rows)


def _by_kind(entry: Entry) -> tuple[int, str]:
    """Sorts techniques that change a model first."""
    return entry.kind == "observer", entry.name


def techniques() -> str:
    """Returns the table of techniques: what each does, its kind, its phase and its paper."""
    entries = sorted(technique_entries(), key=_by_kind)
    rows = [(f"`{e.name}`", _text(e.summary), e.kind, e.phase, _papers(e.paper)) for e in entries]
    return _table(("technique", "what it does", "kind", "phase", "arXiv"), rows)


def phases() -> str:
    """The phases in their order, and the techniques that are in each."""
    entries = technique_entries()
    rows = [
        (phase, meaning, ", ".join(f"`{e.name}`" for e in entries if e.phase == phase) or "–")
        for phase, meaning in catalogue.phases().items()
    ]
    return _table(("phase", "what a technique does in it", "techniques"), rows)


def capabilities() -> str:
    """What techniques may offer each other."""
    rows = [(f"`{name}`", meaning) for name, meaning in catalogue.capabilities().items()]
    return _table(("capability", "what offering it means"), rows)


def datamodules() -> str:
    """Returns the table of datamodules: what each is and what it reads."""
    rows = [(f"`{e.name}`", _text(e.summary), _text(e.reads)) for e in datamodule_entries()]
    return _table(("data", "what it is", "reads"), rows)


def sweeps() -> str:
    """Returns the table of shipped sweeps and the question of each."""
    return _table(("sweep", "what it asks"), [(f"`{e.name}`", _text(e.summary)) for e in sweep_entries()])


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "techniques": techniques,
    "phases": phases,
    "capabilities": capabilities,
    "datamodules": datamodules,
    "sweeps": sweeps,
    "papers": papers.as_markdown,
}


def fill(page: Path) -> str:
    """Returns the text of ``page`` with every marked block replaced.

    A block is named after a table of :data:`TABLES`, or ``first table of FILE``, a page beside this one.

    Raises:
        UserError: a block's name is not known, or it has no end mark.
    """
    text = page.read_text(encoding="utf-8")

    def block(found: re.Match[str]) -> str:
        name = found["name"]
        if name in TABLES:
            return found["start"] + TABLES[name]() + found["end"]
        source = page.parent / name.removeprefix("first table of ")
        if not name.startswith("first table of ") or not source.is_file():
            accepted = ", ".join(TABLES)
            raise UserError(f"{page}: no table {name!r}; accepted: {accepted}, first table of FILE")
        first = re.search(r"(^\|.*\n)+", source.read_text(encoding="utf-8"), re.MULTILINE)
        copied = first[0].replace("](#", f"]({source.relative_to(page.parent)}#") if first else ""
        return found["start"] + copied + found["end"]

    filled, blocks = _BLOCK.subn(block, text)
    if blocks != text.count("<!-- generated: ") or any("<!-- generated: " in m["old"] for m in _BLOCK.finditer(text)):
        raise UserError(f"{page}: a block that starts with <!-- generated: NAME --> has no <!-- end -->")
    return filled


def main(pages: Sequence[str]) -> int:
    """Runs ``list --markdown [FILE...]``: prints every table, or replaces the marked blocks of pages.

    Raises:
        UserError: there is no such page.
    """
    for name in pages:
        if not Path(name).is_file():
            raise UserError(f"list: --markdown {name}: no such file")
        filled = fill(Path(name))
        if filled != Path(name).read_text(encoding="utf-8"):
            Path(name).write_text(filled, encoding="utf-8")
            print(name)
    if not pages:
        print("\n".join(table() for table in TABLES.values()), end="")
    return 0
