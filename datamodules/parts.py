"""The names of the parts of a data set, as files and folders have them."""

from __future__ import annotations

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
_PART_OF = {name: part for part, names in PARTS.items() for name in names}


def part_of(name: str) -> str | None:
    """Returns the part that a word names, in any case: ``train``, ``val`` or ``test``; ``None`` for any other word."""
    return _PART_OF.get(name.lower())
