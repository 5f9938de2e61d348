"""Pictures as signals, (H, W, C) in [-1, 1]."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.initialization.grid_signal import GridSignal, find_file
from framework.errors import UserError
from framework.settings import at_least, one_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def shipped_pictures() -> Path:
    """Returns the folder of pictures in the installed scikit-image.

    Raises:
        UserError: it is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("path: none given, and scikit-image, whose pictures are the default, is not installed")
    return Path(spec.origin).parent / "data"


def read_image(path: Path, channels: int | None = None, size: int | None = None) -> np.ndarray:
    """Returns a picture (H, W, C), float64 in [-1, 1]; transparency is dropped.

    Args:
        path: A picture of 8 or 16 bits for each channel.
        channels: 1 (luminance) or 3; by default those of the picture.
        size: Side in pixels to which the largest central square is resized.

    Raises:
        UserError: the file is not a picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            opened.load()
            picture: Image.Image = opened.copy()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"path: {path} cannot be read as a picture ({', '.join(SUFFIXES)}): {error}") from error
    if picture.mode.startswith("I"):  # 16 bits
        picture = Image.fromarray((np.asarray(picture).astype(np.float32) / 65535).clip(0, 1), mode="F")
        planes = [picture]
    else:
        grey = picture.mode in ("1", "L", "LA", "F")
        picture = picture.convert("L" if (channels or (1 if grey else 3)) == 1 else "RGB")
        planes = [Image.fromarray(np.asarray(p).astype(np.float32) / 255, mode="F") for p in picture.split()]
    if channels == 3 and len(planes) == 1:
        planes = planes * 3
    if size is not None:
        width, height = planes[0].size
        side = min(width, height)
        box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
        planes = [plane.crop(box).resize((size, size), Image.Resampling.BOX) for plane in planes]
    return np.stack([np.asarray(plane, dtype=np.float64) for plane in planes], -1) * 2 - 1


class ImageSignal(GridSignal):
    """A picture as a signal in two dimensions, black at -1 and white at 1.

    Reads: one picture. Without a path: scikit-image's camera.

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
