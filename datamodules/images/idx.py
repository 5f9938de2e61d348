"""The IDX format of MNIST and of the sets that copy it (Fashion-MNIST, KMNIST, EMNIST)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from datamodules.images.labelled import LabelledImages
from framework.errors import UserError

# The third byte of the file names the type; values are big-endian.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); an IDX file was expected") from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path}: the gzip stream is truncated or broken ({error})") from error
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


def find_idx(folder: str | Path, name: str) -> Path:
    """Returns the file ``name`` or ``name.gz`` in ``folder``.

    Raises:
        UserError: neither exists.
    """
    folder = Path(folder).expanduser()
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(
        f"{folder / name}: not found, nor with .gz; expected an IDX folder with train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
    )


def read_idx_folder(path: str | Path) -> tuple[LabelledImages, LabelledImages]:
    """Reads a folder in MNIST's layout.

    Args:
        path: Folder with ``{train,t10k}-images-idx3-ubyte[.gz]`` and ``{train,t10k}-labels-idx1-ubyte[.gz]``.

    Returns:
        The official training and test sets.

    Raises:
        UserError: a file is missing or broken, counts of images and labels differ, the two sets differ in image size,
            or the test set has a class that the training set lacks.
    """
    parts = []
    for prefix in ("train", "t10k"):
        image_file = find_idx(path, f"{prefix}-images-idx3-ubyte")
        label_file = find_idx(path, f"{prefix}-labels-idx1-ubyte")
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.ndim != 3 or images.dtype != np.uint8:
            raise UserError(f"{image_file}: holds {images.dtype.name} of shape {images.shape}, not uint8 (N, H, W)")
        if labels.ndim != 1 or labels.dtype != np.uint8:
            raise UserError(f"{label_file}: holds {labels.dtype.name} of shape {labels.shape}, not uint8 (N,)")
        if len(images) != len(labels) or not len(images):
            raise UserError(f"{label_file}: {len(labels)} labels for {len(images)} images in {image_file.name}")
        parts.append((images[:, None], labels.astype(np.int64), label_file, image_file))
    (train_x, train_y, _, _), (test_x, test_y, label_file, image_file) = parts
    if train_x.shape[1:] != test_x.shape[1:]:
        raise UserError(
            f"{image_file}: images of {test_x.shape[2:]} pixels, the training set's have {train_x.shape[2:]}"
        )
    if test_y.max() > train_y.max():
        raise UserError(f"{label_file}: label {test_y.max()}, but the training set's labels end at {train_y.max()}")
    names = tuple(str(label) for label in range(int(train_y.max()) + 1))
    return LabelledImages(train_x, train_y, names), LabelledImages(test_x, test_y, names)
