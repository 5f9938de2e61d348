"""Chest radiographs with findings: CheXpert, MIMIC-CXR, ChestX-ray14 and PadChest, as lists of files with labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.sources import check_declared
from datamodules.parts import part_of
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.pictures import open_picture
from framework.readers.tables import Row, read_rows
from framework.settings import above, at_least, finite, not_empty, one_of

Source = Literal["chexpert", "mimic", "chest_xray14", "padchest"]
Augment = Literal["none", "flip_rotate"]
PREPROCESSED = {224: "preprocessed224", 336: "preprocessed336", 512: "preprocessed", 1024: "preprocessed1024"}
"""Folder of the pictures of a size."""
TABLES = ("masterlist.csv", "master_list.csv", "final_cxr14_master_list.csv")
PATIENTS = ("patient_id", "patientid", "patient id", "subject_id", "patient")


@dataclass(frozen=True)
class Layout:
    """How a set lies on the disk.

    Attributes:
        folder: Its folder.
        views: The views that are taken; all where it is empty.
        labels: Columns of the five findings.
        picture: Returns the path of a row's picture: of the row, the set's folder, and the folder of its size.
        patient: Finds the patient in that path, where the table has no column for it.
    """

    folder: str
    views: tuple[str, ...]
    labels: tuple[str, ...]
    picture: Callable[[Row, Path, str], Path]
    patient: str


def _inside(row: Row, column: str) -> str:
    """A path of a table, below the set's folder also where it begins with a slash or is Windows'."""
    return row.text(column).strip().replace("\\", "/").lstrip("/")


def _chexpert(row: Row, folder: Path, size: str) -> Path:
    inside = _inside(row, "jpg_rel_path").removeprefix("CheXpert-v1.0/")
    return folder / size / inside if (folder / size).is_dir() else folder / inside


def _mimic(row: Row, folder: Path, size: str) -> Path:
    inside = _inside(row, "jpg_rel_path")
    if (folder / size).is_dir():
        inside = f"/{inside}".replace("/files/", f"/{size}/", 1).lstrip("/")
    return folder / inside


def _chest_xray14(row: Row, folder: Path, size: str) -> Path:
    return folder / "CXR14" / size / _inside(row, "img_rel_path")


def _padchest(row: Row, folder: Path, size: str) -> Path:
    return folder / size / _inside(row, "ImageDir") / _inside(row, "ImageID")


_FINDINGS = ("atelectasis", "cardiomegaly", "pleural_effusion", "pneumonia", "no_finding")
LAYOUTS: dict[Source, Layout] = {
    "chexpert": Layout("CheXpert-v1.0", ("Frontal",), _FINDINGS, _chexpert, r"patient\d+"),
    "mimic": Layout("MIMIC", ("PA", "AP"), _FINDINGS, _mimic, r"p\d{8}"),
    "chest_xray14": Layout(
        "NIH_ChestX-ray14",
        (),
        ("atelectasis", "cardiomegaly", "effusion", "pneumonia", "no_finding"),
        _chest_xray14,
        r"\d{8}(?=_\d{3})",
    ),
    "padchest": Layout("padchest", ("PA", "AP", "AP_horizontal"), _FINDINGS, _padchest, r"(?!)"),
}


class Radiographs(Dataset):
    """Pictures decoded one at a time, with labels.

    Args:
        files: The pictures.
        targets: Labels (N, K) of 0 and 1, int64.
        transform: Maps a grey PIL image to a tensor.
        random: Whether ``transform`` draws random numbers.
    """

    def __init__(self, files: list[Path], targets: Tensor, transform: Callable, random: bool) -> None:
        self.files, self.targets, self.transform, self.draws_random_numbers = files, targets, transform, random

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(open_picture(self.files[index], "L")), self.targets[index]


class ChestXrays(DataModule):
    """Frontal radiographs with five findings; the parts are those of the table, split by patient.

    Batches are ``(x, y)``: ``x`` float32 ``(B, channels, image_size, image_size)``, ``y`` int64 ``(B, K)`` of 0 and 1.
    A label is 1 where the table says 1; uncertain and missing ones are 0. A patient that is in two parts is refused;
    patients are known from a column (``patient_id``, ``subject_id``) or from the pictures' names.

    Reads: ``<path>/CheXpert-v1.0/masterlist.csv``, ``MIMIC/``, ``NIH_ChestX-ray14/`` or ``padchest/``, with ``split``,
        ``view``, findings and the pictures' names; pictures in ``preprocessed224/`` (or 336, 512, 1024). A path is
        needed: the pictures have to be requested from their owners.

    Args:
        path: Folder of the set, or the one that holds it.
        source: ``chexpert``, ``mimic``, ``chest_xray14`` or ``padchest``.
        labels: Columns of the findings; by default atelectasis, cardiomegaly, effusion, pneumonia and no finding.
        image_size: Side of the images in pixels; also which folder of preprocessed pictures is read.
        channels: 3 (grey repeated) or 1.
        augment: ``none``, or ``flip_rotate``: left to right with probability 0.5, and by up to 7 degrees.
        mean: Subtracted from each channel (white is 1); by default ImageNet's.
        std: Divides each channel; by default ImageNet's.
        num_labels: If given, checked against the labels; a config can pass it on to the model.
        encoding: Encoding of a table without a byte order mark; UTF-8 by default.
        batch_size: Images in a training batch, per process.
        eval_batch_size: Images in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        label_names: The columns.

    Raises:
        UserError: a setting is not accepted (in the constructor); a table is missing or broken, a column or part is
            missing, or a patient is in two parts (in ``setup``); a picture is missing or broken (when it is read).
    """

    def __init__(
        self,
        path: str | Path,
        source: Source = "padchest",
        labels: list[str] | None = None,
        image_size: int = 224,
        channels: int = 3,
        augment: Augment = "none",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        num_labels: int | None = None,
        encoding: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        one_of(get_args(Source), source=source)
        one_of(get_args(Augment), augment=augment)
        one_of((1, 3), channels=channels)
        at_least(1, image_size=image_size, num_labels=num_labels)
        not_empty(labels=labels)
        finite(mean=mean)
        above(0, std=std)
        self.mean = tuple(mean or ((0.449,) if channels == 1 else (0.485, 0.456, 0.406)))
        self.std = tuple(std or ((0.226,) if channels == 1 else (0.229, 0.224, 0.225)))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise UserError(f"{name}: {len(values)} values for {channels} channels")
        self.path, self.source, self.labels, self.encoding = path, source, labels, encoding
        self.image_size, self.channels, self.augment = image_size, channels, augment
        self.label_names = tuple(labels or LAYOUTS[source].labels)
        self.num_labels = len(self.label_names)
        check_declared("num_labels", num_labels, self.num_labels, "labels")
        self._parts: dict[str, Radiographs] = {}

    def setup(self, stage: str | None = None) -> None:
        """Reads the table, once, without decoding pictures.

        Raises:
            UserError: the table is missing or broken, a column or part is missing, or a patient is in two parts.
        """
        if self.train_set is not None:
            return
        folder, table = self._table()
        layout, size = LAYOUTS[self.source], PREPROCESSED.get(self.image_size, f"preprocessed{self.image_size}")
        found: dict[str, tuple[list[Path], list[list[int]]]] = {}
        patients: dict[str, str] = {}
        left_out = 0
        for row in read_rows(table, self.encoding):
            part = part_of(row.text("split"))
            if part is None:
                raise UserError(f"{row.source}: split {row.text('split')!r}; train, valid or test is expected")
            if layout.views and row.text("view", "") not in layout.views:
                left_out += 1
                continue
            file = layout.picture(row, folder, size)
            patient = self._patient(row, file)
            if patient and patients.setdefault(patient, part) != part:
                raise UserError(f"{row.source}: patient {patient} is in {patients[patient]} and in {part}")
            files, labels = found.setdefault(part, ([], []))
            files.append(file)
            labels.append([_is_one(row, name) for name in self.label_names])
        for part in ("train", "val", "test"):
            if part not in found:
                views = f" with view {' or '.join(layout.views)}" if layout.views else ""
                raise UserError(f"{table}: has no row of the {part} part{views}")
        for part, (files, labels) in found.items():
            if not files[0].exists():
                raise UserError(f"{files[0]}: not found, though {table} names it")
            self._parts[part] = Radiographs(files, torch.tensor(labels), self._transform("none"), random=False)
        self.val_set, self.test_set = self._parts["val"], self._parts["test"]
        plain = self._parts["train"]
        augmented = self._transform(self.augment)
        self.train_set = Radiographs(plain.files, plain.targets, augmented, random=self.augment != "none")
        sizes = " / ".join(f"{len(self._parts[part]):,}" for part in ("train", "val", "test"))
        rank_zero_info(
            f"{type(self).__name__}: {sizes} radiographs of {len(patients):,} patients to train, validate and test; "
            f"{left_out:,} of other views left out"
        )

    def examples(self, part: str) -> Radiographs:
        """Returns the radiographs of ``train``, ``val`` or ``test`` without augmentation."""
        return self._parts[part]

    def _table(self) -> tuple[Path, Path]:
        root, name = Path(self.path).expanduser(), LAYOUTS[self.source].folder
        folders = (root / f"preprocessed_{self.image_size}" / name, root / name, root)
        for folder in folders:
            for table in TABLES:
                if (folder / table).exists() or (folder / table).is_symlink():
                    return folder, folder / table
        raise UserError(f"path: {root} has no {name}/{TABLES[0]}, which source {self.source} is read from")

    def _patient(self, row: Row, file: Path) -> str:
        for name in PATIENTS:
            if row.column(name) is not None:
                return row.text(name, "")
        found = re.search(LAYOUTS[self.source].patient, file.as_posix())
        return found.group() if found else ""

    def _transform(self, augment: Augment) -> Callable:
        from torchvision.transforms import v2

        steps: list[Callable] = [v2.Resize((self.image_size, self.image_size))]
        if augment == "flip_rotate":
            steps += [v2.RandomHorizontalFlip(), v2.RandomRotation(7)]  # type: ignore[arg-type]
        if self.channels == 3:
            steps.append(v2.Grayscale(3))
        tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]
        return v2.Compose([*steps, *tensor, v2.ToPureTensor()])


def _is_one(row: Row, column: str) -> int:
    """1 where a cell is 1; uncertain and missing ones are 0."""
    if row.column(column) is None:
        row.text(column)  # refused: there is no such column
    text = row.text(column, "").strip()
    try:
        return int(bool(text) and float(text) == 1)
    except ValueError:
        raise UserError(f"{row.source}: column {column!r} holds {text!r}; 1, 0, -1 or nothing is expected") from None
