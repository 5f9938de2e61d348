"""The fenced blocks, tables and links of a Markdown page."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^ *```(?P<language>\w*) *\n(?P<text>.*?)^ *``` *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run:(?P<reason>[^\n]*)-->\n+\Z")
_FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|ya?ml|toml))\n")
COMMANDS = ("fit", "validate", "test", "predict", "list", "compare", "reproduce", "export", "sweep")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        place: ``page:line``, for messages.
        language: As the fence says.
        text: What stands between the fences.
        skip: Why it is not run, from the mark before it; ``None`` without one.
    """

    place: str
    language: str
    text: str
    skip: str | None = None

    @property
    def file(self) -> str | None:
        """The file that its first line names."""
        found = _FILE.match(self.text)
        return found["name"] if found else None


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        place = f"{page.name}:{line}"
        found.append(Block(place, match["language"], match["text"], mark["reason"].strip() if mark else None))
    return found


def command_lines(text: str) -> list[list[str]]:
    """The words of each command of a shell block; comments and lines of ``#!`` or ``#SBATCH`` are none."""
    joined = text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def framework_arguments(words: list[str]) -> list[str] | None:
    """What the command line gives the framework's command, or ``None`` if it calls another program."""
    if words[0] == "framework":
        return words[1:]
    for i in range(len(words) - 1):
        if words[i : i + 2] == ["-m", "framework"]:
            return words[i + 2 :]
    return words if words[0] in COMMANDS else None


def typed_rows(page: Path) -> list[tuple[str, list[str]]]:
    """Each row of the table "What do I type for": what for, and the code in its second column."""
    section = page.read_text(encoding="utf-8").split("## What do I type for", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (?P<what>.+?) \| (?P<typed>.+) \|$", section, re.MULTILINE)
    return [(what, re.findall(r"`([^`]+)`", typed)) for what, typed in rows if "`" in typed]


def links(page: Path) -> list[str]:
    """The targets of a page's links, code left out."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_spans(page: Path) -> list[str]:
    """The code within a page's sentences and tables."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text(encoding="utf-8")))
