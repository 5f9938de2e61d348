"""Pairs of pictures, one to be translated into the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.interpretability.photographs import cut, list_pictures, read_bytes, split_files
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.settings import at_least, one_of


def edges(x: Tensor) -> Tensor:
    """Returns the strength of edges (B, 1, H, W) in [0, 1]: the norm of Sobel's two filters of the luminance, of which
    1 is the strongest that a step from black to white has."""
    grey = x.mean(1, keepdim=True)
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    filters = torch.stack([kernel, kernel.T])[:, None].to(x)
    return F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), filters).norm(dim=1, keepdim=True).clamp(max=1)


class _Pair(ArrayDataset):
    """Bytes of both; a batch is float in [0, 1]."""

    draws_random_numbers = False

    def __getitems__(self, indices):  # type: ignore[no-untyped-def]
        return tuple(part.float() / 255 for part in super().__getitems__(indices))


class PairedPictures(DataModule):
    """Pieces of picture A with the same pieces of picture B.

    Batches are ``(a, b)``: float32 ``(B, in_channels, size, size)`` and ``(B, channels, size, size)`` in [0, 1].

    Reads: a folder with ``A/`` and ``B/``, of pictures of the same names and sizes (png, jpg, tif, webp, bmp, ppm).
        Without a path: eight photographs of scikit-image as B, the strength of their edges as A.

    Args:
        path: The folder.
        in_channels: Channels of A, 1 or 3; 1 without a path.
        channels: Channels of B, 1 (luminance) or 3.
        size: Side of the pieces in pixels.
        patches: Pieces of each picture, at random places.
        val_pictures: Pictures for validation, and as many for the test.
        split_seed: Seed of places and of the order of a folder's pictures.
        batch_size: Pieces in a training batch, per process.
        eval_batch_size: The same for evaluation.
        num_workers: Loader processes.

    Raises:
        UserError: a setting is not accepted (in the constructor); a folder or picture is missing, broken, too small or
            without its partner (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        in_channels: int = 1,
        channels: int = 1,
        size: int = 32,
        patches: int = 200,
        val_pictures: int = 1,
        split_seed: int = 0,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        one_of((1, 3), in_channels=in_channels, channels=channels)
        at_least(1, patches=patches, val_pictures=val_pictures)
        at_least(3, size=size)
        at_least(0, split_seed=split_seed)
        if path is None and in_channels != 1:
            raise UserError(f"in_channels: {in_channels} is not accepted without a path; edges have 1")
        self.path, self.in_channels, self.channels, self.size = path, in_channels, channels, size
        self.patches, self.val_pictures, self.split_seed = patches, val_pictures, split_seed
        if path is None:
            rank_zero_info("PairedPictures: no path given, using edges of photographs that ship with scikit-image")

    def setup(self, stage: str | None = None) -> None:
        """Reads the pictures and cuts them, once."""
        if self.train_set is not None:
            return
        files = self._files()
        parts = split_files(
            len(files), self.val_pictures, self.val_pictures, None if self.path is None else self.split_seed
        )
        self.train_set, self.val_set, self.test_set = (self._pairs([files[i] for i in part]) for part in parts)

    def _files(self) -> list[tuple[Path | None, Path]]:
        if self.path is None:
            return [(None, file) for file in list_pictures(None)]
        folder = Path(self.path).expanduser()
        found = []
        for name in ("A", "B"):
            files = list_pictures(folder / name)
            stems: dict[str, Path] = {}
            for file in files:
                if stems.setdefault(file.stem, file) is not file:
                    raise UserError(f"{file}: {stems[file.stem].name} has the same name; one of them is expected")
            found.append(stems)
        first, second = found
        if alone := sorted(first.keys() ^ second.keys()):
            lacking = "B" if alone[0] in first else "A"
            raise UserError(f"{folder / lacking}: has no picture {alone[0]!r}, which the other folder has")
        return [(first[stem], second[stem]) for stem in sorted(first)]

    def _pairs(self, files: list[tuple[Path | None, Path]]) -> _Pair:
        pictures = []
        for a, b in files:
            target = read_bytes(b, self.channels, self.size)
            if a is None:
                x = torch.from_numpy(target)[None].float() / 255
                source = (edges(x)[0] * 255).round().byte().numpy()
            else:
                source = read_bytes(a, self.in_channels, self.size)
                if source.shape[1:] != target.shape[1:]:
                    sizes = " and ".join(f"{part.shape[2]}x{part.shape[1]}" for part in (source, target))
                    raise UserError(f"{a}: {sizes} pixels in A and B; the same size is expected")
            pictures.append(np.concatenate([source, target]))
        pieces = torch.from_numpy(cut(pictures, self.size, self.patches, self.split_seed))
        return _Pair(pieces[:, : self.in_channels].contiguous(), pieces[:, self.in_channels :].contiguous())
