"""Embeddings of labelled images, as the paper's code and ``survey`` write them.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (the format of the official code).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.interpretability.factor_data import FactorData, fingerprint
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.readers.arrays import check_arrays, float32, labels_of, read_arrays, shapes_of
from framework.settings import one_of

Features = Literal["pre", "post"]
EXPECTED = ".npz with image_embeds (N, d) and y_<concept> (N,) of each concept"


class FactorEmbeddings(FactorData):
    """Embeddings x (B, d) float32 with the values of concepts y (B, k) int64.

    Reads: ``.npz`` of image_embeds (N, d), or image_embeds_pre and image_embeds_post, and of each concept y_<concept>
        (N,), whole numbers from 0.

    Args:
        path: The file.
        features: ``pre`` or ``post`` the projection; by default what the file has, if it has one of them.
        train_fraction: Share of the combinations to train on.
        val_fraction: Share of the other combinations that is for validation; the rest is for the test.
        split_seed: Seed of both splits.
        batch_size: Samples in a training batch, per process.
        eval_batch_size: Samples in an evaluation batch.
        num_workers: Loader processes.

    Raises:
        UserError: a setting is not accepted; the file is missing, broken or something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path,
        features: Features | None = None,
        train_fraction: float = 0.1,
        val_fraction: float = 0.5,
        split_seed: int = 0,
        batch_size: int = 256,
        eval_batch_size: int | None = 2000,
        num_workers: int = 0,
    ) -> None:
        super().__init__(train_fraction, val_fraction, split_seed, batch_size, eval_batch_size, num_workers)
        one_of(get_args(Features), features=features)
        self.path, self.features = path, features

    def _array_of(self, arrays: Mapping[str, np.ndarray], file: Path) -> str:
        """The name of the embeddings: a file with one kind of features says which, if this project wrote it."""
        both = [kind for kind in get_args(Features) if f"image_embeds_{kind}" in arrays]
        if both and self.features is None and len(both) > 1:
            raise UserError(f"features: {file} has image_embeds_pre and image_embeds_post; pre or post")
        if both and "image_embeds" not in arrays:
            return f"image_embeds_{self.features or both[0]}"
        found = arrays.get("features")
        recorded = str(found) if found is not None and found.ndim == 0 else ""
        if self.features is not None and recorded in get_args(Features) and recorded != self.features:
            raise UserError(
                f"features: {self.features!r} is not accepted; {file} has embeddings {recorded} the projection"
            )
        return "image_embeds"

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the embeddings, once.

        Raises:
            UserError: the file is missing, broken or something else, or has too few combinations.
        """
        if self.samples is not None:
            return
        file = Path(self.path).expanduser()
        arrays = read_arrays(file, EXPECTED)
        name = self._array_of(arrays, file)
        columns = [key for key in arrays if key.startswith("y_")]
        if not columns:
            raise UserError(f"{file}: no y_<concept> (it has {shapes_of(arrays)}); expected {EXPECTED}")
        check_arrays(arrays, {name: "N d", **dict.fromkeys(columns, "N")}, file, EXPECTED)
        x = torch.from_numpy(float32(arrays[name], name, file))
        labels = {key.removeprefix("y_"): labels_of(arrays[key], key, file) for key in columns}

        def make(rows: np.ndarray, y: np.ndarray) -> Dataset:
            return ArrayDataset(x[torch.from_numpy(rows)], torch.from_numpy(y))

        self.divide(labels, make)
        self.fingerprint = fingerprint([file], name)
