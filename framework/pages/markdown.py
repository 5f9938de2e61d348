"""Tables in Markdown, for the pages that are generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "--:", "c": ":-:"}


def cell(text: str) -> str:
    """Text as it must stand in a table: on one line, no bar that would end the cell, no sign that opens a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A table.

    Args:
        head: The titles.
        rows: Cells, as Markdown; :func:`cell` escapes plain text.
        align: A letter for each column: l, r or c; all l by default.
    """
    rule = [_RULES[letter] for letter in (align or "l" * len(head))]
    lines = (f"| {' | '.join(row)} |" for row in (head, *rows))
    first, *others = lines
    return "\n".join([first, f"|{'|'.join(rule)}|", *others])
