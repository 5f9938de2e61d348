"""Pictures in folders named after their class: finding the parts of a set, and the files of each class."""

from __future__ import annotations

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
        self.listing = Listing.joined(listings)
        self.files = self.listing.files
        counts = [len(listing.files) for listing in listings]
        self.labels = np.repeat([self.names.index(name) for name in found], counts).astype(np.int64)


def find_parts(folder: Path) -> dict[str, Path]:
    """Returns the folders of the training, validation and test part, where the set comes in parts.

    They are called as :data:`datamodules.parts.PARTS` says, in any case. A folder of such a name that
    has no folders inside is a class, if there are other folders beside it (``car/``, ``ship/``, ``train/``).

    Args:
        folder: The folder of the set.

    Returns:
        Of ``train``, ``val`` and ``test`` those that are there; nothing if the folders in it are the classes.

    Raises:
        UserError: it cannot be read, two folders are the same part, or there are parts but none for training.
    """
    folders = list_folders(folder)
    named = {name: part for name in folders if (part := part_of(name))}
    if len(named) < len(folders) and not any(list_folders(folders[name]) for name in named):
        return {}
    found: dict[str, Path] = {}
    for name, part in named.items():
        if part in found:
            raise UserError(f"{folder}: {found[part].name} and {name} are both the {part} part; keep one of them")
        found[part] = folders[name]
    if found and "train" not in found:
        there = next(iter(found.values()))
        raise UserError(f"{folder / 'train'}: not found, though there is {there}")
    return found
