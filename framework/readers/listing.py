"""The files in a folder of the user: links are followed, hidden files and folders are not data."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from framework.errors import UserError


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is left out: ``.ipynb_checkpoints``, ``._a.png``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Returns whether a file name ends with one of ``suffixes`` (lower case, such as ``.csv.gz``), in any case."""
    return name.lower().endswith(tuple(filter(None, suffixes))) or ("" in suffixes and "." not in name)


@dataclass
class Listing:
    """The files of a folder.

    Attributes:
        files: Those of the suffixes asked for, sorted.
        hidden: How many hidden files and folders were left out.
        others: How many files of other suffixes were left out.
        links: How many links to folders were followed.
    """

    files: list[Path] = field(default_factory=list)
    hidden: int = 0
    others: int = 0
    links: int = 0

    @classmethod
    def joined(cls, listings: Sequence[Listing]) -> Listing:
        """Returns one listing of several, their files one after the other."""
        files = list(chain.from_iterable(listing.files for listing in listings))
        counts = [[listing.hidden, listing.others, listing.links] for listing in listings]
        return cls(files, *map(sum, zip(*counts, strict=True)))

    def left_out(self) -> str:
        """Returns what was left out and followed, for a report, or an empty text."""
        counts = (
            (self.hidden, "hidden left out"),
            (self.others, "of other kinds left out"),
            (self.links, "linked folders followed"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def list_files(folder: Path, suffixes: tuple[str, ...], deep: bool = True) -> Listing:
    """Lists the files of a folder.

    Args:
        folder: The folder.
        suffixes: Their suffixes in lower case, compared in any case; ``""`` for names without one.
        deep: Whether those of folders inside, and of folders that are links, are listed too.

    Raises:
        UserError: the folder cannot be read, a link leads to nothing, or back to a folder above it.
    """
    found = Listing()
    _walk(folder, suffixes, deep, found, (os.path.realpath(folder),))
    found.files.sort()
    return found


def _walk(folder: Path, suffixes: tuple[str, ...], deep: bool, found: Listing, above: tuple[str, ...]) -> None:
    for entry in _entries(folder):
        path = folder / entry.name
        if is_hidden(entry.name):
            found.hidden += 1
        elif entry.is_dir():
            if not deep:
                continue
            real = os.path.realpath(path)
            if real in above:
                raise UserError(f"{path}: a link to a folder above it; its files would be listed without end")
            found.links += entry.is_symlink()
            _walk(path, suffixes, deep, found, (*above, real))
        elif deep and "." not in entry.name and _leads_nowhere(entry):
            raise UserError(f"{path}: a link to a folder that is not there ({os.readlink(path)})")
        elif not has_suffix(entry.name, suffixes):
            found.others += 1
        elif entry.is_file():
            found.files.append(path)
        elif _leads_nowhere(entry):
            raise UserError(f"{path}: a link to a file that is not there ({os.readlink(path)})")


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); a folder is expected") from error


def list_folders(folder: Path) -> dict[str, Path]:
    """Returns the folders inside a folder, links included and hidden ones not, by their name in Unicode's form NFC.

    Raises:
        UserError: the folder cannot be read, a link without a suffix leads to nothing, or two names differ only in
            their Unicode form.
    """
    found: dict[str, Path] = {}
    names = []
    for entry in _entries(folder):
        if is_hidden(entry.name):
            continue
        if "." not in entry.name and _leads_nowhere(entry):  # a class or a part would be missing without a word
            raise UserError(f"{entry.path}: a link to a folder that is not there ({os.readlink(entry.path)})")
        if entry.is_dir():
            names.append(entry.name)
    for name in sorted(names):
        shown = unicodedata.normalize("NFC", name)
        if shown in found:
            first = found[shown].name
            raise UserError(
                f"{folder}: two folders named {shown!r}, which differ only in their Unicode form "
                f"({first!a} and {name!a}); join them"
            )
        found[shown] = folder / name
    return dict(sorted(found.items()))
