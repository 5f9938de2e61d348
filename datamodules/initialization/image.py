"""Pictures as signals, (H, W, C) in [-1, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.images.embedded import shipped_pictures
from datamodules.initialization.grid_signal import GridSignal, find_file
from framework.readers.pictures import SUFFIXES, read_picture
from framework.settings import at_least, one_of


def read_image(path: Path, channels: int | None = None, size: int | None = None) -> np.ndarray:
    """Returns a picture (H, W, C), float64 in [-1, 1].

    Args:
        path: A picture, see :mod:`framework.readers.pictures`.
        channels: 1 (luminance) or 3; by default those of the picture.
        size: Side in pixels to which the largest central square is resized.

    Raises:
        UserError: the file is not a picture.
    """
    picture = read_picture(path, channels)
    if size is not None:
        from PIL import Image

        height, width, _ = picture.shape
        side = min(width, height)
        box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
        planes = [Image.fromarray(np.ascontiguousarray(plane)).crop(box) for plane in np.moveaxis(picture, -1, 0)]
        picture = np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BOX)) for plane in planes], -1)
    return picture.astype(np.float64) * 2 - 1


class ImageSignal(GridSignal):
    """A picture as a signal in two dimensions, black at -1 and white at 1.

    Reads: one picture (png, jpg, tif, webp, bmp, ppm) of 8 or 16 bits, or float from 0 to 1; transparency over white.
        Without a path: scikit-image's camera.

    Args:
        path: An image file, or a folder of them; without one the pictures in scikit-image's installed package.
        picture: Name of the file in the folder, without suffix.
        channels: 1 for luminance, 3 for colours; the picture's own by default.
        size: Side in pixels to which the largest central square is resized (by averaging); by default the whole picture
            without resizing.
        batch_size: Pixels in a training batch, per process; by default all of them, up to 512².
        eval_batch_size: The same for evaluation.
        holdout: Share of the pixels, drawn at random, that are not trained on.
        holdout_seed: Seed of the choice of these pixels.
        passes: Number of passes over the signal in an epoch.
        num_workers: Loader processes; 0 is fastest.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing or broken (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        picture: str | None = None,
        channels: int | None = None,
        size: int | None = None,
        batch_size: int | None = None,
        eval_batch_size: int | None = None,
        holdout: float = 0.0,
        holdout_seed: int = 0,
        passes: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, holdout, holdout_seed, passes, num_workers)
        one_of((1, 3), channels=channels)
        at_least(2, size=size)
        self.path, self.picture, self.channels, self.size = path, picture, channels, size
        if path is None:
            name = picture or "camera"
            rank_zero_info(f"ImageSignal: no path given, using {name!r} of the pictures that ship with scikit-image")

    def load(self) -> Tensor:
        """Returns (H, W, C)."""
        folder = self.path or str(shipped_pictures())
        name = self.picture if self.path is not None else self.picture or "camera"
        return torch.from_numpy(
            read_image(find_file(folder, SUFFIXES, name, "picture"), self.channels, self.size)
        ).float()
