"""Embeddings of labelled images, computed once: files by a key of weights, transforms and images.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (the format of the official code: image_embeds, y_<concept>, values_<concept>).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from framework.errors import UserError
from framework.files import written
from framework.observing.embeddings import Features, embed, find_projection, wanted
from framework.readers.arrays import check_arrays, read_arrays

EXPECTED = ".npz as this project writes its embeddings"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a set of labelled samples.

    Attributes:
        z: By ``pre`` and ``post``, (N, d) float32.
        labels: (N, k) int64.
        concepts: Names of the concepts.
        projection: Name of the projection layer.
        file: Where they are kept, if anywhere.
        computed: Whether they were computed now, not read.
    """

    z: dict[str, np.ndarray]
    labels: np.ndarray
    concepts: tuple[str, ...]
    projection: str
    file: Path | None
    computed: bool


def weights_hash(model: nn.Module) -> str:
    """Returns a hash of a model's structure and of all of its weights and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cache_key(model: nn.Module, fingerprint: str, features: Features, projection: str) -> str:
    """Returns the key of embeddings.

    Args:
        model: The encoder.
        fingerprint: Of the samples: their files and transforms.
        features: ``pre``, ``post`` or ``both``.
        projection: Name of the projection layer.
    """
    text = "\0".join((weights_hash(model), fingerprint, features, projection))
    return hashlib.sha256(text.encode()).hexdigest()


def embeddings(
    model: nn.Module,
    datamodule: Any,
    features: Features = "pre",
    projection: str | None = None,
    folder: str | Path | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> Embeddings:
    """Returns the embeddings of all samples of a datamodule, from a file if they were computed before.

    A file has ``image_embeds`` of one kind of features, or ``image_embeds_pre`` and ``image_embeds_post``;
    ``y_<concept>`` and ``values_<concept>``; ``features``, ``projection`` and ``key``.

    Args:
        model: The encoder.
        datamodule: One of factors after ``setup``, with ``samples``, ``concepts``, ``values`` and ``fingerprint``.
        features: ``pre`` the projection, ``post`` it, or ``both``.
        projection: Name of the projection; by default the encoder's last layer.
        folder: Folder of the files; without one nothing is kept.
        device: Device to compute on.
        batch_size: Samples in a pass.

    Raises:
        UserError: the datamodule is another one, there is no such layer, or a file in the folder is broken.
    """
    from framework.data.loader import ExactLoader

    samples = getattr(datamodule, "samples", None)
    if samples is None:
        raise UserError(f"data: {type(datamodule).__name__} has no samples that are labelled with factors")
    layer = find_projection(model, projection)
    key = cache_key(model, datamodule.fingerprint, features, layer)
    concepts = tuple(datamodule.concepts)
    file = None if folder is None else Path(folder).expanduser() / f"{key[:24]}.npz"
    names = {name: f"image_embeds_{name}" if features == "both" else "image_embeds" for name in wanted(features)}
    if file is not None and file.is_file():
        arrays = read_arrays(file, EXPECTED)
        shapes = dict.fromkeys(names.values(), "N ...") | {f"y_{name}": "N" for name in concepts}
        check_arrays(arrays, shapes, file, EXPECTED)
        if str(arrays.get("key")) != key:
            raise UserError(f"{file}: its key is not that of its name; remove the file")
        labels = np.stack([arrays[f"y_{name}"] for name in concepts], 1)
        return Embeddings({name: arrays[own] for name, own in names.items()}, labels, concepts, layer, file, False)
    batches: Iterable[Any] = ExactLoader(samples, batch_size, False, seed=0, ranks=lambda: (1, 0))
    found, targets = embed(model.to(device), batches, layer, features, device)
    z, labels = {name: value.numpy() for name, value in found.items()}, targets.numpy()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {names[name]: value for name, value in z.items()}
        content |= {f"y_{name}": labels[:, i] for i, name in enumerate(concepts)}
        content |= {f"values_{name}": values for name, values in zip(concepts, datamodule.values, strict=True)}
        content |= {"features": np.array(features), "projection": np.array(layer), "key": np.array(key)}
        with written(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, **content)
    return Embeddings(z, labels, concepts, layer, file, True)
