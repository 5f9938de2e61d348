"""Pictures in folders named after their class: finding the parts of a set, and the files of each class."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from datamodules.parts import part_of
from framework.errors import UserError
from framework.readers.listing import Listing, list_files, list_folders
from framework.readers.pictures import SUFFIXES


class ClassFolders:
    """The pictures of ``<folder>/<class>/**/*.<picture>``.

    Class names are compared in Unicode's form NFC; the classes are sorted by name.

    Args:
        folder: Folder with one folder for each class.
        classes: The classes that may occur, in order; by default all folders, by name.

    Attributes:
        folder: The same.
        files: The pictures, in order of class and name.
        labels: Class of each, int64 ``(N,)``.
        names: Names of the classes.
        listing: What was left out and followed.

    Raises:
        UserError: there is no such folder, it has no classes, a class has no picture, two classes differ only in their
            Unicode form, or a class is not in ``classes``.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...] | None = None) -> None:
        found = list_folders(folder)
        if not found:
            raise UserError(f"{folder}: has no folders; expected one for each class, with images inside")
        self.folder = folder
        if classes is None and len(found) == 1:
            raise UserError(f"{folder}: has one class, {next(iter(found))!r}; a folder for each of several is expected")
        self.names = classes or tuple(found)
        unknown = [name for name in found if name not in self.names]
        if unknown:
            near = get_close_matches(unknown[0], self.names, n=1, cutoff=0.0)[0]
            raise UserError(f"{folder}: class {unknown[0]!r} is not among the training classes; nearest: {near!r}")
        listings: list[Listing] = []
        for path in found.values():
            own = list_files(path, SUFFIXES)
            if not own.files:
                raise UserError(f"{path}: has no image; accepted: {' '.join(SUFFIXES)}")
            listings.append(own)
        beside = list_files(folder, SUFFIXES, deep=False)  # pictures of no class
        beside = Listing([], beside.hidden, beside.others + len(beside.files), 0)
        self.listing = Listing.joined([*listings, beside])
        self.files = self.listing.files
        counts = [len(listing.files) for listing in listings]
        self.labels = np.repeat([self.names.index(name) for name in found], counts).astype(np.int64)


def find_parts(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Finds the folders of the training, validation and test part, where the set comes in parts.

    They are called as :data:`datamodules.parts.PARTS` says, in any case, or with a word before it (``seg_train``). A
    folder of such a name that has no folders inside is a class, if there are other folders beside it (``car/``,
    ``ship/``, ``train/``). A folder that holds a single folder of folders, as archives do, is entered.

    Args:
        folder: The folder of the set.

    Returns:
        The folder in which the set lies; and of ``train``, ``val`` and ``test`` those that are there, none if the
        folders in it are the classes.

    Raises:
        UserError: it cannot be read, two folders are the same part, or there are parts but none for training.
    """
    folder = _entered(folder)
    folders = list_folders(folder)
    named = {name: part for name in folders if (part := part_of(name))}
    if not named and len(folders) > 1:
        last = {name: part for name in folders if (part := part_of(re.split(r"[-_. ]", name)[-1]))}
        named = last if len(last) == len(folders) else {}
    if len(named) < len(folders) and not any(list_folders(folders[name]) for name in named):
        return folder, {}
    found: dict[str, Path] = {}
    first: dict[str, str] = {}
    for name, part in named.items():
        if first.setdefault(part, name) != name:
            raise UserError(f"{folder}: {first[part]} and {name} are both the {part} part; keep one of them")
        found[part] = _entered(folders[name])
    if found and "train" not in found:
        there = next(iter(found.values()))
        raise UserError(f"{folder / 'train'}: not found, though there is {there}")
    return folder, found


def _entered(folder: Path) -> Path:
    """Returns the folder, or the one inside where that holds the folders and nothing lies beside it."""
    inner = list_folders(folder)
    single = next(iter(inner.values())) if len(inner) == 1 else None
    if single is None or part_of(single.name) or len(list_folders(single)) < 2:
        return folder
    return folder if list_files(folder, SUFFIXES, deep=False).files else _entered(single)
