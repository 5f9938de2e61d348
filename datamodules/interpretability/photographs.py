"""Photographs in memory, and pieces cut from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.images.embedded import shipped_pictures
from framework.errors import UserError
from framework.readers.listing import list_files
from framework.readers.pictures import SUFFIXES, read_picture

# Of those that ship with scikit-image; the last two are for validation and test.
_TRAIN = ("astronaut.png", "coffee.png", "coins.png", "moon.png", "rocket.jpg", "motorcycle_left.png")
SHIPPED = (*_TRAIN, "chelsea.png", "camera.png")


def list_pictures(path: str | Path | None) -> list[Path]:
    """Returns the pictures of a folder; of scikit-image without one.

    Raises:
        UserError: the folder is missing or has no pictures.
    """
    if path is None:
        folder = shipped_pictures()
        return [folder / name for name in SHIPPED]
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"path: {folder} is not there; a folder of pictures ({' '.join(SUFFIXES)}) is expected")
    found = list_files(folder, SUFFIXES).files
    if not found:
        raise UserError(f"path: the folder {folder} holds no picture ({' '.join(SUFFIXES)})")
    return found


def split_files(count: int, val: int, test: int, seed: int | None) -> tuple[list[int], list[int], list[int]]:
    """Returns the numbers of the files to train, validate and test on.

    Args:
        count: Number of files.
        val: How many validate.
        test: How many test.
        seed: Shuffles them first; ``None`` keeps their order.

    Raises:
        UserError: too few are left to train on.
    """
    if count < val + test + 1:
        raise UserError(f"path: {count} pictures are too few; {val} to validate, {test} to test, and one to train on")
    order = list(range(count)) if seed is None else np.random.default_rng(seed).permutation(count).tolist()
    first = count - val - test
    return order[:first], order[first : first + val], order[first + val :]


def read_bytes(file: Path, channels: int, size: int) -> np.ndarray:
    """Returns a picture as bytes (channels, H, W).

    Args:
        file: The picture.
        channels: 1 (luminance) or 3.
        size: Side of the pieces that are to be cut from it.

    Raises:
        UserError: it is not a picture, or smaller than the pieces of side ``size``.
    """
    picture = read_picture(file, channels)
    if min(picture.shape[:2]) < size:
        raise UserError(f"{file}: {picture.shape[1]}x{picture.shape[0]} pixels; at least {size} each way are needed")
    return np.rint(picture * 255).astype(np.uint8).transpose(2, 0, 1)


def cut(pictures: list[np.ndarray], size: int, count: int, seed: int) -> np.ndarray:
    """Returns pieces (pictures · count, C, size, size) at random places.

    Args:
        pictures: Each (C, H, W).
        size: Side of a piece.
        count: Pieces of each picture.
        seed: The places depend on it and on a picture's number.
    """
    pieces = []
    for number, picture in enumerate(pictures):
        generator = np.random.default_rng((seed, number))
        tops = generator.integers(0, picture.shape[1] - size + 1, count)
        lefts = generator.integers(0, picture.shape[2] - size + 1, count)
        pieces += [picture[:, top : top + size, left : left + size] for top, left in zip(tops, lefts, strict=True)]
    return np.stack(pieces)
