"""Markdown tables for the generated pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "--:", "c": ":-:"}


def cell(text: str) -> str:
    """Escapes text for a table cell: one line, without characters that end the cell or open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Returns a Markdown table.

    Args:
        head: The column titles.
        rows: Rows of cells, as Markdown; :func:`cell` escapes plain text.
        align: A letter for each column: l, r or c; all l by default.
    """
    rule = [_RULES[letter] for letter in (align or "l" * len(head))]
    lines = (f"| {' | '.join(row)} |" for row in (head, *rows))
    first, *others = lines
    return "\n".join([first, f"|{'|'.join(rule)}|", *others])
