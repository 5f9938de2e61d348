"""Images in folders named after their class, decoded when they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.class_folders import ClassFolders, find_parts
from datamodules.images.embedded import load_digits
from datamodules.images.labelled import stratified_split
from datamodules.images.sources import check_declared
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.listing import Listing
from framework.readers.pictures import open_picture
from framework.settings import above, at_least, between, finite, one_of

Augment = Literal["none", "crop_flip", "randaugment", "trivialaugment"]

# Files, or images in memory as uint8 (N, H, W); and the class of each.
Part = tuple[list[Path] | np.ndarray, np.ndarray]


class FolderDataset(Dataset):
    """Images decoded one at a time.

    Args:
        part: Files, or images in memory as uint8 ``(N, H, W)``, and the class of each.
        transform: Maps a PIL image to a tensor.
        channels: 3 decodes to RGB, 1 to grey.
        random: Whether ``transform`` draws random numbers.
    """

    def __init__(
        self,
        part: Part,
        transform: Callable[[Image.Image], Tensor],
        channels: int,
        random: bool,
    ) -> None:
        self.items, self.labels = part
        self.transform = transform
        self.mode = "RGB" if channels == 3 else "L"
        self.draws_random_numbers = random

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.items[index]
        if isinstance(item, np.ndarray):
            image = Image.fromarray(item).convert(self.mode)
        else:
            image = open_picture(item, self.mode)
        return self.transform(image), torch.tensor(int(self.labels[index]))


class ImageFolderData(DataModule):
    """Images in torchvision's ImageFolder layout: ``train/<class>/*``, ``val/<class>/*``, optionally
    ``test/<class>/*``.

    A folder without ``train`` and ``val`` is read as ``<class>/*`` and split: ``test_fraction`` for the test set,
    ``val_fraction`` of the rest for validation, stratified by class. Without ``val`` a part of ``train`` is held out;
    without ``test`` the validation set is also the test set, as usual with ImageNet. Without a path the digits of
    scikit-learn are used instead. The parts may also be called ``training``, ``valid``, ``validation``, ``dev`` and
    ``testing``, in any case. Links are followed, hidden files and folders are left out; what was taken is printed.

    Batches are ``(x, y)``: ``x`` float32 ``(B, channels, image_size, image_size)``, ``y`` int64 ``(B,)``.

    Reads: ``train/<class>/*.png`` (or jpg, tif, webp, bmp, ppm), or one folder that it splits; 8 bits, grey of 16
        bits, float from 0 to 1 (see ``framework/readers/pictures.py``). Without a path: scikit-learn's digits.

    Args:
        path: The folder.
        image_size: Side of the images in pixels.
        channels: 3 (RGB) or 1 (grey).
        num_classes: If given, checked against the data; a config can pass it on to the model.
        augment: Augmentation of training images: ``none`` (resized and cropped as in evaluation), ``crop_flip`` (random
            resized crop, left-right flip), ``randaugment`` or ``trivialaugment`` (after ``crop_flip``).
        min_scale: Smallest share of the image's area in a random crop.
        crop_ratio: In evaluation, the central share of the resized image's side that is kept.
        mean: Subtracted from each channel (white is 1); by default ImageNet's.
        std: Divides each channel; by default ImageNet's.
        val_fraction: Share of the training images held out if there is no ``val``.
        test_fraction: Share of all images held out if there is neither ``train`` nor ``val``.
        split_seed: Seed of both splits.
        batch_size: Images in a training batch, per process.
        eval_batch_size: Images in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        num_classes: Classes (after ``setup``).
        class_names: Names of the classes in the order of their numbers (after ``setup``).
        channels: Channels of a batch.
        image_size: Side of its images in pixels.

    Raises:
        UserError: a setting is not among what is accepted (in the constructor); a folder or file is missing, has no
            images, or does not match the arguments (in ``setup``); a file cannot be decoded (when it is read).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        image_size: int = 224,
        channels: int = 3,
        num_classes: int | None = None,
        augment: Augment = "crop_flip",
        min_scale: float = 0.08,
        crop_ratio: float = 0.875,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, num_classes=num_classes, channels=channels, image_size=image_size)
        finite(mean=mean)
        above(0, std=std)
        one_of(get_args(Augment), augment=augment)
        one_of((1, 3), channels=channels)
        between(0, 1, "(]", min_scale=min_scale, crop_ratio=crop_ratio)
        between(0, 1, "()", val_fraction=val_fraction, test_fraction=test_fraction)
        grey = channels == 1
        self.mean = tuple(mean or ((0.449,) if grey else (0.485, 0.456, 0.406)))
        self.std = tuple(std or ((0.226,) if grey else (0.229, 0.224, 0.225)))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise UserError(f"{name}: {len(values)} values for {channels} channels")
        self.path, self.image_size, self.channels, self.augment = path, image_size, channels, augment
        self.min_scale, self.crop_ratio = min_scale, crop_ratio
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.num_classes = num_classes
        self.class_names: tuple[str, ...] = ()
        self._declared_classes = num_classes
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using the handwritten digits of scikit-learn")

    def _transform(self, augment: Augment) -> Callable[[Image.Image], Tensor]:
        from torchvision.transforms import v2

        if augment == "none":
            steps: list[Callable] = [
                v2.Resize(round(self.image_size / self.crop_ratio)),
                v2.CenterCrop(self.image_size),
            ]
        else:
            scale = (self.min_scale, 1.0)
            steps = [v2.RandomResizedCrop(self.image_size, scale=scale), v2.RandomHorizontalFlip()]
            if augment != "crop_flip":
                steps.append(v2.RandAugment() if augment == "randaugment" else v2.TrivialAugmentWide())
        tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]
        return v2.Compose([*steps, *tensor, v2.ToPureTensor()])

    def setup(self, stage: str | None = None) -> None:
        """Lists the files and splits them, once, without decoding them."""
        if self.train_set is not None:
            return
        train, val, test = self._parts()
        self.num_classes = len(self.class_names)
        check_declared("num_classes", self._declared_classes, self.num_classes, str(self.path or "the digits"))
        fixed, augmented = self._transform("none"), self._transform(self.augment)
        self.train_set = FolderDataset(train, augmented, self.channels, random=self.augment != "none")
        self.val_set = FolderDataset(val, fixed, self.channels, random=False)
        self.test_set = self.val_set if test is val else FolderDataset(test, fixed, self.channels, random=False)

    def _parts(self) -> tuple[Part, Part, Part]:
        if self.path is None:
            digits = load_digits()
            self.class_names = digits.class_names
            return self._three_way(digits.images[:, 0], digits.labels)
        folder, parts = find_parts(Path(self.path).expanduser())
        whole = ClassFolders(parts.get("train", folder))
        self.class_names = whole.names
        listing = whole.listing
        if not parts:
            counts = np.bincount(whole.labels)
            self._check_classes(whole.labels[counts[whole.labels] > 1], whole)  # one picture cannot be split
            train, val, test = self._three_way(whole.files, whole.labels)
        else:
            train = (whole.files, whole.labels)
            others: dict[str, Part] = {}
            for name in ("val", "test"):
                if name in parts:
                    found = ClassFolders(parts[name], self.class_names)
                    listing = Listing.joined([listing, found.listing])
                    others[name] = (found.files, found.labels)
            if "val" not in others:
                train, others["val"] = self._split(*train, self.val_fraction)
            val, test = others["val"], others.get("test", others["val"])
        self._check_classes(train[1], whole)
        sizes = " / ".join(f"{len(labels):,}" for _, labels in (train, val, test))
        where = ", ".join(part.name for part in parts.values()) or "split here"
        rest = listing.left_out()
        rank_zero_info(
            f"{type(self).__name__}: {sizes} pictures to train, validate and test ({where}), "
            f"{len(self.class_names)} classes{f'; {rest}' if rest else ''}"
        )
        return train, val, test

    def _check_classes(self, labels: np.ndarray, whole: ClassFolders) -> None:
        """Checks that every class has a picture to train on.

        Raises:
            UserError: a class has none.
        """
        counts = np.bincount(whole.labels, minlength=len(whole.names))
        if len(missing := np.setdiff1d(np.arange(len(whole.names)), labels)):
            few = ", ".join(f"{whole.names[i]!r} (of {counts[i]})" for i in missing[:10])
            raise UserError(
                f"{whole.folder}: no picture is left to train on of {len(missing)} of {len(whole.names)} classes: {few}"
                "; give them more, or lay the set out as train/, val/ and test/"
            )

    def _three_way(self, items: list[Path] | np.ndarray, labels: np.ndarray) -> tuple[Part, Part, Part]:
        rest, test = self._split(items, labels, self.test_fraction)
        train, val = self._split(rest[0], rest[1], self.val_fraction)
        return train, val, test

    def _split(self, items: list[Path] | np.ndarray, labels: np.ndarray, fraction: float) -> tuple[Part, Part]:
        parts = stratified_split(labels, fraction, self.split_seed)

        def take(rows: np.ndarray) -> Part:
            return items[rows] if isinstance(items, np.ndarray) else [items[row] for row in rows], labels[rows]

        return take(parts[0]), take(parts[1])
