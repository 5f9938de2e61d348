"""Pieces of photographs at low and high resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.interpretability.photographs import cut, list_pictures, read_bytes, split_files
from framework.data import DataModule
from framework.settings import at_least, multiple_of, one_of


def shrink(x: Tensor, scale: int) -> Tensor:
    """Returns pictures (B, C, H, W) at 1/``scale`` of their side, by bicubic interpolation with antialiasing."""
    size = [side // scale for side in x.shape[-2:]]  # a factor of 1 / 49 of 49 would be 0
    small = F.interpolate(x, size, mode="bicubic", antialias=True)
    return small.clamp(0, 1)


class ScalePairs(Dataset):
    """Pieces as bytes; a batch is made at low and high resolution.

    Args:
        pieces: uint8 (N, C, S, S).
        scale: The factor between the two.
    """

    draws_random_numbers = False

    def __init__(self, pieces: Tensor, scale: int) -> None:
        self.pieces, self.scale = pieces, scale

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        low, high = self.__getitems__([index])
        return low[0], high[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns low (B, C, S/scale, S/scale) and high (B, C, S, S) resolution, in [0, 1]."""
        high = self.pieces[torch.as_tensor(indices)].float() / 255
        return shrink(high, self.scale), high


class SuperResolutionPatches(DataModule):
    """Pieces of photographs, and the same shrunk by bicubic interpolation.

    Batches are ``(low, high)``: float32 ``(B, channels, size / scale, size / scale)`` and ``(B, channels, size, size)``
    in [0, 1].

    Reads: a folder of pictures at high resolution (png, jpg, tif, webp, bmp, ppm), as DIV2K's. Without a path: eight
        photographs of scikit-image.

    Args:
        path: The folder. Its last pictures, in an order shuffled by ``split_seed``, validate and test.
        val_path: Folder of pictures to validate and test on instead.
        scale: Factor between the resolutions.
        channels: 1 (luminance) or 3.
        size: Side of the pieces in pixels of the high resolution, a multiple of ``scale``.
        patches: Pieces of each picture, at random places.
        val_pictures: Pictures for validation, and as many for the test.
        split_seed: Seed of places and of the order of a folder's pictures.
        batch_size: Pieces in a training batch, per process.
        eval_batch_size: The same for evaluation.
        num_workers: Loader processes.

    Raises:
        UserError: a setting is not accepted (in the constructor); a folder or picture is missing, broken or too small
            (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        val_path: str | Path | None = None,
        scale: int = 2,
        channels: int = 1,
        size: int = 48,
        patches: int = 200,
        val_pictures: int = 1,
        split_seed: int = 0,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        at_least(2, scale=scale)
        one_of((1, 3), channels=channels)
        at_least(1, patches=patches, val_pictures=val_pictures, size=size)
        at_least(0, split_seed=split_seed)
        multiple_of({"scale": scale}, size=size)
        self.path, self.val_path, self.scale, self.channels, self.size = path, val_path, scale, channels, size
        self.patches, self.val_pictures, self.split_seed = patches, val_pictures, split_seed
        if path is None:
            rank_zero_info("SuperResolutionPatches: no path given, using photographs that ship with scikit-image")

    def setup(self, stage: str | None = None) -> None:
        """Reads the pictures and cuts them, once."""
        if self.train_set is not None:
            return
        files = list_pictures(self.path)
        if self.val_path is not None:
            train, val = files, list_pictures(self.val_path)
            test = val
        else:
            seed = None if self.path is None else self.split_seed
            split = split_files(len(files), self.val_pictures, self.val_pictures, seed)
            train, val, test = ([files[i] for i in part] for part in split)
        self.train_set, self.val_set = self._pairs(train), self._pairs(val)
        self.test_set = self.val_set if test is val else self._pairs(test)

    def _pairs(self, files: list[Path]) -> ScalePairs:
        pictures = [read_bytes(file, self.channels, self.size) for file in files]
        return ScalePairs(torch.from_numpy(cut(pictures, self.size, self.patches, self.split_seed)), self.scale)
