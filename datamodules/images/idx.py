"""The IDX format of MNIST and of the sets that copy it (Fashion-MNIST, KMNIST, EMNIST)."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np

from datamodules.images.labelled import LabelledImages
from framework.errors import UserError
from framework.readers.listing import is_hidden
from framework.readers.unpacking import read_bytes

# The third byte of the file names the type; values are big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# The original names, Kaggle's (train-images.idx3-ubyte) and EMNIST's (emnist-letters-test-images-idx3-ubyte).
_NAME = re.compile(
    r"(?:(?P<set>.+)-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?", re.I
)
EXPECTED = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or "
    ".gz, in it or in its MNIST/raw"
)


def read_idx(path: str | Path) -> np.ndarray:
    """Reads one IDX file, plain or gzipped (detected by the content, not by the name).

    Args:
        path: The file.

    Returns:
        The array, in the type and the shape that the header gives.

    Raises:
        UserError: the file is missing, is truncated, does not start with an IDX magic number, or holds more or fewer
            bytes than its header says.
    """
    path = Path(path).expanduser()
    data = read_bytes(path, "an IDX file")
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise UserError(f"{path}: begins with 0x{data[:4].hex()}, which is no IDX magic number (0x000008 and the rank)")
    rank, start = data[3], 4 + 4 * data[3]
    if len(data) < start:
        raise UserError(f"{path}: ends inside its header of {start} bytes")
    shape = struct.unpack(f">{rank}I", data[4:start])
    dtype = np.dtype(_TYPES[data[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise UserError(f"{path}: has {len(data)} bytes, but its header (shape {shape}, {dtype.name}) says {expected}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def find_idx(path: str | Path, part: str, kind: str) -> Path:
    """Returns a file of a set in IDX.

    It is looked for in the folder itself, then in those inside it, as in torchvision's ``MNIST/raw``; its name is the
    original one, Kaggle's ``train-images.idx3-ubyte`` or EMNIST's ``emnist-letters-train-images-idx3-ubyte``. Where
    there are several sets, as in EMNIST, the path ends with the name of one: ``EMNIST/raw/emnist-letters``.

    Args:
        path: The folder, or the folder and the name of a set in it.
        part: ``train`` or ``test`` (also called ``t10k``).
        kind: ``images`` or ``labels``.

    Raises:
        UserError: there is no such file, or there are several.
    """
    path = Path(path).expanduser()
    folder, chosen = (path, None) if path.is_dir() else (path.parent, path.name)
    found: dict[str, list[Path]] = {}
    for file in _candidates(folder):
        match = _NAME.fullmatch(file.name)
        own = "train" if match and match["part"].lower() == "train" else "test"
        if match and (own, match["kind"].lower()) == (part, kind):
            found.setdefault((match["set"] or "").lower(), []).append(file)
    names = sorted(found)
    if chosen is None and len(names) > 1:
        raise UserError(
            f"{folder}: holds several sets; give one as the path: {folder / names[0]}, or {', '.join(names[1:])}"
        )
    files = found.get(names[0] if chosen is None and names else (chosen or "").lower(), [])
    if not files:
        raise UserError(f"{path}: no {part} {kind} in IDX found; expected {EXPECTED}")
    # A file in the folder itself comes first, then a plain one before its .gz.
    depth = min(len(file.parts) for file in files)
    files = sorted((f for f in files if len(f.parts) == depth), key=lambda f: (f.suffix.lower() == ".gz", f.name))
    if len({file.parent for file in files}) > 1:
        raise UserError(f"{folder}: holds {files[0]} and {files[1]}; give the folder of one of them")
    return files[0]


def _candidates(folder: Path) -> list[Path]:
    """Returns the files in a folder and in those up to two below, hidden ones left out."""
    files = [file for depth in ("*", "*/*", "*/*/*") for file in folder.glob(depth)]
    inside = len(folder.parts)
    return [f for f in files if f.is_file() and not any(is_hidden(part) for part in f.parts[inside:])]


def _home(file: Path) -> Path:
    """Returns the folder of a set: that of the file, or the one above if it is named like the file."""
    return file.parent.parent if _NAME.fullmatch(file.parent.name) else file.parent


def read_images(file: Path) -> np.ndarray:
    """Reads the pictures of an IDX file.

    Returns:
        uint8, shape ``(N, H, W)``.

    Raises:
        UserError: see :func:`read_idx`; or it holds something else.
    """
    images = read_idx(file)
    if images.ndim != 3 or images.dtype != np.uint8 or not images.size:
        raise UserError(f"{file}: holds {images.dtype.name} of shape {images.shape}, not uint8 (N, H, W)")
    return images


def read_part(path: str | Path, part: str) -> tuple[np.ndarray, np.ndarray, Path, Path]:
    """Reads the pictures of a part and their labels.

    Args:
        path: See :func:`find_idx`.
        part: ``train`` or ``test``.

    Returns:
        Pictures uint8 ``(N, H, W)``, labels int64 ``(N,)``, and the files of the two.

    Raises:
        UserError: a file is missing or broken, or the counts of pictures and labels differ.
    """
    image_file, label_file = find_idx(path, part, "images"), find_idx(path, part, "labels")
    images, labels = read_images(image_file), read_idx(label_file)
    if labels.ndim != 1 or labels.dtype != np.uint8:
        raise UserError(f"{label_file}: holds {labels.dtype.name} of shape {labels.shape}, not uint8 (N,)")
    if _home(image_file) != _home(label_file):
        raise UserError(f"{image_file}: its labels lie elsewhere, {label_file}; the files of a set lie in one folder")
    if len(images) != len(labels):
        raise UserError(f"{label_file}: {len(labels)} labels for {len(images)} images in {image_file.name}")
    return images, labels.astype(np.int64), image_file, label_file


def read_idx_folder(path: str | Path) -> tuple[LabelledImages, LabelledImages]:
    """Reads a set in MNIST's layout.

    Args:
        path: See :func:`find_idx`. EMNIST's pictures are transposed, as in its files; its letters are numbered from 1.

    Returns:
        The official training and test sets.

    Raises:
        UserError: a file is missing or broken, counts of images and labels differ, the two sets differ in image size,
            or the test set has a class that the training set lacks.
    """
    train_x, train_y, train_file, _ = read_part(path, "train")
    test_x, test_y, image_file, label_file = read_part(path, "test")
    if _home(train_file) != _home(image_file):
        raise UserError(f"{train_file}: the test part lies elsewhere, {image_file}; give the folder of one set")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise UserError(
            f"{image_file}: images of {test_x.shape[1:]} pixels, the training set's have {train_x.shape[1:]}"
        )
    if test_y.max() > train_y.max():
        raise UserError(f"{label_file}: label {test_y.max()}, but the training set's labels end at {train_y.max()}")
    names = tuple(str(label) for label in range(int(train_y.max()) + 1))
    return LabelledImages(train_x[:, None], train_y, names), LabelledImages(test_x[:, None], test_y, names)
