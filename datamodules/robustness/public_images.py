"""Public images with classes, on which a network is trained before it sees private ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.images.batch_transforms import BatchPreprocess
from datamodules.images.embedded import load_digits, shipped_pictures
from datamodules.images.idx import read_idx_folder
from framework.readers.pictures import read_picture

Public = Literal["none", "photographs", "digits", "idx"]

# Of scikit-image: textures, scenes, sky, microscopy and print. The class of a piece is the picture that it is from.
PICTURES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "rocket.jpg",
    "text.png",
)


def public_images(public: Public, path: str | Path | None, count: int, size: int, seed: int = 0) -> dict[str, Tensor]:
    """Returns images ``x`` float32 (M, 1, size, size) from 0 to 1 and classes ``y`` int64 (M,); nothing for ``none``.

    Args:
        public: ``photographs``: pieces of scikit-image's pictures, whose class is the picture; ``digits``:
            scikit-learn's 1,797, 8x8 pixels, enlarged; ``idx``: the training part of a folder like Fashion-MNIST's;
            or ``none``.
        path: The folder of ``idx``.
        count: Largest number of images.
        size: Side of the images in pixels.
        seed: Seed of the pieces' places and of the choice of images.

    Raises:
        UserError: a file is missing or broken.
    """
    if public == "none":
        return {}
    if public == "photographs":
        x, y = _pieces(count, size, seed)
        return {"x": torch.from_numpy(x).float() / 255, "y": torch.from_numpy(y)}
    found = load_digits() if public == "digits" else read_idx_folder(path or "")[0]
    rows = np.sort(np.random.default_rng(seed).permutation(len(found))[:count])
    scaled = BatchPreprocess(size, 1, (0.0,), (1.0,))
    return {"x": scaled(torch.from_numpy(found.images[rows])), "y": torch.from_numpy(found.labels[rows])}


def _pieces(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of each picture at random places, dark on light in half of them, so that both polarities are seen."""
    folder = shipped_pictures()
    each = max(1, count // len(PICTURES))
    pieces, classes = [], []
    for number, name in enumerate(PICTURES):
        draw = np.random.default_rng((seed, number))
        picture = np.rint(read_picture(folder / name, 1)[..., 0] * 255).astype(np.uint8)
        tops = draw.integers(0, picture.shape[0] - size + 1, each)
        lefts = draw.integers(0, picture.shape[1] - size + 1, each)
        own = np.stack([picture[t : t + size, left : left + size] for t, left in zip(tops, lefts, strict=True)])
        inverted = draw.random(each) < 0.5
        own[inverted] = 255 - own[inverted]
        pieces.append(own)
        classes.append(np.full(each, number))
    return np.concatenate(pieces)[:, None], np.concatenate(classes).astype(np.int64)
