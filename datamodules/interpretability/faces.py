"""Small grey pictures of faces and of other things, as MTCNN's networks see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.images.embedded import shipped_pictures
from datamodules.images.labelled import stratified_split
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.readers.arrays import check_arrays, float32, labels_of, read_array, read_arrays
from framework.settings import at_least, between

EXPECTED = ".npz with x (N, H, W), grey from 0 to 1 or 0 to 255, and y (N,), 0 for no face and 1 for a face"


class Faces(DataModule):
    """Faces (class 1) and other pieces of photographs (class 0), resized, in three equal channels.

    Batches are ``(x, y)``: ``x`` float32 ``(B, 3, image_size, image_size)``, (p - 127.5) / 128 of bytes p, as MTCNN's
    networks expect; ``y`` int64 ``(B,)``.

    Reads: ``.npz`` of grey pictures x and classes y. Without a path: scikit-image's ``lfw_subset``, 100 faces and 100
        others of 25x25 pixels.

    Args:
        path: The file, or the folder of ``faces.npz``.
        image_size: Side to which they are resized (bilinear).
        test_fraction: Share of the pictures that validate and test; the others train. With 1 none trains.
        split_seed: Seed of the split.
        batch_size: Pictures in a training batch, per process.
        eval_batch_size: The same for evaluation.
        num_workers: Loader processes.

    Attributes:
        num_classes: 2.
        class_names: Their names.
        channels: 3.
        mean: 0.5 for each channel, of pixels from 0 to 1.
        std: 128 / 255, the same.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing or broken (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        image_size: int = 48,
        test_fraction: float = 1.0,
        split_seed: int = 0,
        batch_size: int = 50,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        at_least(1, image_size=image_size)
        between(0, 1, "(]", test_fraction=test_fraction)
        self.path, self.image_size, self.test_fraction, self.split_seed = path, image_size, test_fraction, split_seed
        self.num_classes, self.class_names, self.channels = 2, ("no face", "face"), 3
        self.mean, self.std = (0.5,) * 3, (128 / 255,) * 3
        if path is None:
            rank_zero_info("Faces: no path given, using the faces and other pictures that ship with scikit-image")

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the pictures, once."""
        if self.test_set is not None:
            return
        x, y = self.pictures()
        if self.test_fraction < 1:
            train, test = map(torch.from_numpy, stratified_split(y.numpy(), self.test_fraction, self.split_seed))
            self.train_set = ArrayDataset(x[train], y[train])
            x, y = x[test], y[test]
        self.val_set = self.test_set = ArrayDataset(x, y)

    def pictures(self) -> tuple[Tensor, Tensor]:
        """Returns all pictures (N, 3, image_size, image_size) as in a batch, and their classes (N,).

        Raises:
            UserError: the file is missing or broken.
        """
        if self.path is None:
            pixels = read_array(shipped_pictures() / "lfw_subset.npy", "lfw_subset of scikit-image", np.float32)
            labels = np.repeat([1, 0], 100)
        else:
            file = Path(self.path).expanduser()
            file = file / "faces.npz" if file.is_dir() else file
            arrays = read_arrays(file, EXPECTED)
            check_arrays(arrays, {"x": "N H W", "y": "N"}, file, EXPECTED)
            pixels, labels = float32(arrays["x"], "x", file), labels_of(arrays["y"], "y", file)
            is_bytes = arrays["x"].dtype.kind in "iu"  # even of a dark picture
            if labels.min() < 0 or labels.max() > 1:
                raise UserError(f"{file}: y has class {int(labels.max())}; 0 (no face) and 1 (a face) are expected")
            if pixels.min() < 0 or pixels.max() > 255:
                raise UserError(
                    f"{file}: x from {pixels.min():.4g} to {pixels.max():.4g}; 0 to 1, or 0 to 255 expected"
                )
            pixels = pixels / 255 if is_bytes or pixels.max() > 1 else pixels
        x = torch.from_numpy(np.ascontiguousarray(pixels))[:, None]
        x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear")
        return ((x * 255 - 127.5) / 128).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels.astype(np.int64))
