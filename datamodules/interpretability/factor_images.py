"""Images that are labelled with the values of their factors: rendered shapes, dSprites, MPI3D and PUG.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (which values of which data sets; the coloured dSprites).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.interpretability.factor_data import FactorData, fingerprint
from datamodules.interpretability.rendered_shapes import LATENTS, render_grid
from framework.errors import UserError
from framework.readers.arrays import array_shape, check_arrays, labels_of, read_array_rows, read_arrays
from framework.readers.listing import list_files
from framework.readers.pictures import open_picture
from framework.readers.tables import DELIMITED, Row, read_rows
from framework.readers.text import check_encoding
from framework.settings import above, at_least, finite, one_of

Source = Literal["rendered", "dsprites", "mpi3d", "pug"]
VALUES: dict[str, dict[str, int]] = {
    "rendered": {"shape": 3, "scale": 4, "orientation": 5, "posX": 5, "posY": 5},
    "dsprites": {"orientation": 10, "posX": 10, "posY": 10},
    "mpi3d": {"horizontal-axis": 10, "vertical-axis": 10},
    "pug": {},
}
DSPRITES = ".npz with imgs (N, H, W) or (N, H, W, 3), latents_classes (N, 6) and latents_values (N, 6)"
MPI3D = ".npz with images (N, H, W, 3), every combination in order, or with labels (N, 7)"
PUG = "a folder with a .csv of filename, character_name and other columns, and the files in <character_name>/"
AXES = (
    "object-color",
    "object-shape",
    "object-size",
    "camera-height",
    "background-color",
    "horizontal-axis",
    "vertical-axis",
)
GRIDS = {1_036_800: (6, 6, 2, 3, 3, 40, 40), 460_800: (4, 4, 2, 3, 3, 40, 40)}  # real; real complex
PUG_CONCEPTS = ("world-name", "character-name", "character-scale", "character-texture")


def hues(count: int) -> np.ndarray:
    """Returns ``count`` saturated colours of equally spaced hues, (count, 3) from 0 to 1."""
    return np.array([colorsys.hsv_to_rgb(number / count, 1.0, 1.0) for number in range(count)])


def spaced(size: int, count: int) -> np.ndarray:
    """Returns ``count`` of ``size`` positions, equally spaced, the first and the last included."""
    return np.unique(np.rint(np.linspace(0, size - 1, min(count, size))).astype(int))


class FactorPictures(Dataset):
    """Pictures in memory, a batch in one indexing operation; colours are made as they are read.

    Args:
        pictures: uint8 (M, H, W) or (M, H, W, 3).
        rows: The picture of each sample (N,).
        colour: The colour of each sample (N,).
        palette: Colours (n, 3) from 0 to 1.
        labels: (N, k).
        mean: Subtracted from each channel.
        std: Divides each channel.
    """

    draws_random_numbers = False

    def __init__(
        self,
        pictures: Tensor,
        rows: np.ndarray,
        colour: np.ndarray,
        palette: np.ndarray,
        labels: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.pictures, self.rows, self.colour = pictures, torch.from_numpy(rows), torch.from_numpy(colour)
        self.palette = torch.from_numpy(palette).float()
        self.labels = torch.from_numpy(labels)
        self.mean, self.std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the batch at ``indices``: x (B, 3, H, W) and y (B, k)."""
        chosen = torch.as_tensor(indices)
        x = self.pictures[self.rows[chosen]].float() / 255
        x = x[:, None] if x.ndim == 3 else x.movedim(3, 1)
        x = x * self.palette[self.colour[chosen]][..., None, None]
        return (x - self.mean) / self.std, self.labels[chosen]


class FactorFiles(Dataset):
    """Pictures in files, decoded and resized as they are read.

    Args:
        files: The files (N,).
        labels: (N, k).
        image_size: Side of the pictures in pixels.
        mean: Subtracted from each channel.
        std: Divides each channel.
    """

    draws_random_numbers = False

    def __init__(
        self, files: Sequence[Path], labels: np.ndarray, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.files, self.labels, self.image_size = files, torch.from_numpy(labels), image_size
        self.mean, self.std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL.Image import Resampling

        picture = open_picture(self.files[index], "RGB")
        picture = picture.resize((self.image_size, self.image_size), Resampling.BICUBIC)
        x = torch.from_numpy(np.array(picture)).movedim(2, 0).float() / 255
        return (x - self.mean) / self.std, self.labels[index]


class FactorImages(FactorData):
    """Images x (B, 3, image_size, image_size) float32 with the values of their factors y (B, k) int64.

    Reads: dSprites (``.npz`` of imgs, latents_classes, latents_values), MPI3D (``.npz`` of images, or with labels),
        PUG: Animals (a folder with a ``.csv`` and ``<character_name>/<filename>``). Without a path: squares, ellipses
        and hearts are rendered.

    Args:
        source: ``rendered``, ``dsprites``, ``mpi3d`` or ``pug``.
        path: The file, or for ``pug`` the folder.
        image_size: Side of the images in pixels, to which they are resized.
        colours: Number of hues in which white shapes are coloured, as one more factor; 1 leaves them white.
        values: Largest number of values of a factor, equally spaced; see :data:`VALUES` for what each source has if it
            is not given. MPI3D's 40 x 40 positions of the arm become 10 x 10.
        max_angle: Orientations of dSprites from this angle on are left out, in degrees: a square turned by 90° is the
            same.
        grid: Numbers of values of the seven axes of an MPI3D file without labels; by default by its number of images.
        mean: Subtracted from each channel (black is 0, white is 1).
        std: Divides each channel.
        encoding: Of PUG's table, if it is not UTF-8.
        train_fraction: Share of the combinations to train on.
        val_fraction: Share of the other combinations that is for validation; the rest is for the test.
        split_seed: Seed of both splits.
        batch_size: Images in a training batch, per process.
        eval_batch_size: Images in an evaluation batch.
        num_workers: Loader processes; 0 is fastest for images in memory, all but those of PUG.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing, broken or something else (in
            ``setup``, pictures when they are read).
    """

    def __init__(
        self,
        source: Source = "rendered",
        path: str | Path | None = None,
        image_size: int = 32,
        colours: int = 5,
        values: dict[str, int] | None = None,
        max_angle: float = 90.0,
        grid: list[int] | None = None,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        encoding: str | None = None,
        train_fraction: float = 0.5,
        val_fraction: float = 0.5,
        split_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = 500,
        num_workers: int = 0,
    ) -> None:
        super().__init__(train_fraction, val_fraction, split_seed, batch_size, eval_batch_size, num_workers)
        one_of(get_args(Source), source=source)
        at_least(4, image_size=image_size)
        at_least(1, colours=colours, grid=grid)
        above(0, max_angle=max_angle, std=list(std))
        finite(mean=list(mean))
        check_encoding(encoding=encoding)
        if (path is None) != (source == "rendered"):
            what = {"dsprites": DSPRITES, "mpi3d": MPI3D, "pug": PUG, "rendered": ""}[source]
            raise UserError(f"path: {path!r} is not accepted with source {source!r}" + (f"; {what}" if what else ""))
        if grid is not None and len(grid) != len(AXES):
            raise UserError(f"grid: {grid} is not accepted; the numbers of values of {', '.join(AXES)}")
        at_least(1, **{f"values.{name}": count for name, count in (values or {}).items()})
        self.counts = {**VALUES[source], **(values or {})}
        known = {"mpi3d": AXES, "pug": PUG_CONCEPTS}.get(source, LATENTS[1:])
        one_of(known, values=list(self.counts))
        self.source, self.path, self.image_size, self.colours = source, path, image_size, colours
        self.max_angle, self.grid, self.encoding = max_angle, grid, encoding
        self.mean, self.std = tuple(mean), tuple(std)
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, rendering squares, ellipses and hearts")

    def setup(self, stage: str | None = None) -> None:
        """Reads or renders the images, and splits them, once.

        Raises:
            UserError: a file is missing, broken or something else, or has too few combinations.
        """
        if self.samples is not None:
            return
        path = None if self.path is None else Path(self.path).expanduser()
        settings = (self.source, self.image_size, self.colours, sorted(self.counts.items()), self.max_angle)
        if self.source == "pug":
            assert path is not None
            table, files, columns = self._pug(path)
            self.divide(
                columns,
                lambda rows, y: FactorFiles([files[row] for row in rows], y, self.image_size, self.mean, self.std),
            )
            self.fingerprint = fingerprint([table, *files], *settings, self.mean, self.std)
            return
        if path is None:
            pictures, classes, _ = self._rendered()
            columns = dict(zip(LATENTS, classes.T, strict=True))
        else:
            pictures, columns = self._dsprites(path) if self.source == "dsprites" else self._mpi3d(path)
        white = self.colours > 1 and pictures.ndim == 3
        palette = hues(self.colours) if white else np.ones((1, 3))
        rows = np.tile(np.arange(len(pictures)), len(palette))
        colour = np.repeat(np.arange(len(palette)), len(pictures))
        columns = {name: column[rows] for name, column in columns.items()}
        if white:
            columns["color"] = colour
        images = _resized(torch.from_numpy(pictures), self.image_size)

        def make(chosen: np.ndarray, y: np.ndarray) -> Dataset:
            return FactorPictures(images, rows[chosen], colour[chosen], palette, y, self.mean, self.std)

        self.divide(columns, make)
        self.fingerprint = fingerprint([path] if path else [], *settings, self.grid, self.mean, self.std)

    def _rendered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shapes, scales, angles, across, down = (self.counts[name] for name in LATENTS[1:])
        return render_grid(shapes, scales, angles, (across, down), self.image_size)

    def _kept(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns which samples have values that are kept, of all that there are equally spaced ones."""
        kept = np.ones(len(next(iter(columns.values()))), dtype=bool)
        for name, count in self.counts.items():
            ids = np.unique(columns[name])
            kept &= np.isin(columns[name], ids[spaced(len(ids), count)])
        return kept

    def _dsprites(self, path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        names = ("latents_classes", "latents_values")
        arrays = read_arrays(path, DSPRITES, only=names)
        shape = array_shape(path, "imgs", DSPRITES)
        check_arrays(arrays, dict.fromkeys(names, "N latents"), path, DSPRITES)
        classes, values = (arrays[name] for name in names)
        if classes.shape[1] != len(LATENTS):
            raise UserError(f"{path}: latents_classes has the shape {classes.shape}; expected {DSPRITES}")
        columns = {name: labels_of(classes[:, i], f"latents_classes[:, {i}]", path) for i, name in enumerate(LATENTS)}
        if len(shape) not in (3, 4) or shape[0] != len(classes) or shape[3:] not in ((), (3,)):
            raise UserError(f"{path}: imgs has the shape {shape}; expected {DSPRITES}")
        angle = np.degrees(values[:, LATENTS.index("orientation")].astype(np.float64))
        rows = np.flatnonzero(angle < self.max_angle - 1e-6)
        if not len(rows):
            raise UserError(f"max_angle: {self.max_angle:g} is not accepted; {path} has none below {angle.min():.4g}°")
        rows = rows[self._kept({name: column[rows] for name, column in columns.items()})]
        pictures = _bytes(read_array_rows(path, "imgs", rows, DSPRITES), "imgs", path)
        return pictures, {name: column[rows] for name, column in columns.items()}

    def _mpi3d(self, path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        shape = array_shape(path, "images", MPI3D)
        if len(shape) != 4 or shape[3] != 3:
            raise UserError(f"{path}: images has the shape {shape}; expected {MPI3D}")
        arrays = read_arrays(path, MPI3D, only=("labels",))
        if arrays:
            check_arrays(arrays, {"labels": "N axes"}, path, MPI3D)
            if arrays["labels"].shape != (shape[0], len(AXES)):
                raise UserError(f"{path}: labels has the shape {arrays['labels'].shape}; expected {MPI3D}")
            labels = np.stack(
                [labels_of(column, f"labels[:, {i}]", path) for i, column in enumerate(arrays["labels"].T)], 1
            )
        else:
            grid = tuple(self.grid) if self.grid is not None else GRIDS.get(shape[0])
            if grid is None or math.prod(grid) != shape[0]:
                known = ", ".join(f"{count:,}" for count in GRIDS)
                raise UserError(
                    f"{path}: images has {shape[0]:,} pictures, which is not every combination of "
                    f"{list(grid) if grid else f'a known grid ({known})'}; set data.init_args.grid"
                )
            labels = np.indices(grid).reshape(len(grid), -1).T
        columns = dict(zip(AXES, labels.T, strict=True))
        rows = np.flatnonzero(self._kept(columns))
        pictures = _bytes(read_array_rows(path, "images", rows, MPI3D), "images", path)
        return pictures, {name: column[rows] for name, column in columns.items()}

    def _pug(self, folder: Path) -> tuple[Path, list[Path], dict[str, np.ndarray]]:
        """Returns the table, and of it the files and the columns.

        As in the paper only of pictures of yaw 0, without the default texture and the goldfish.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: is not a folder; expected {PUG}")
        tables = list_files(folder, DELIMITED, deep=False).files
        if len(tables) != 1:
            raise UserError(f"{folder}: has {len(tables)} tables; expected {PUG}")
        kept: list[tuple[Path, list[str]]] = []
        for row in read_rows(tables[0], self.encoding):
            values = [_cell(row, name) for name in PUG_CONCEPTS]
            turned = _number(_cell(row, "camera-yaw", "0"), row) != 0
            if turned or _cell(row, "character-name") == "Goldfish" or _cell(row, "character-texture") == "Default":
                continue
            file = folder / _inside(_cell(row, "character-name"), row) / _inside(_cell(row, "filename"), row)
            kept.append((file, values))
        if not kept:
            raise UserError(f"{tables[0]}: no row of yaw 0 with a texture other than Default; expected {PUG}")
        columns = {name: np.array([values[i] for _, values in kept]) for i, name in enumerate(PUG_CONCEPTS)}
        rows = np.flatnonzero(self._kept(columns))
        files = [kept[row][0] for row in rows]
        if missing := [file for file in files if not file.is_file()]:
            raise UserError(f"{missing[0]}: not found ({len(missing)} of {len(files)} pictures); expected {PUG}")
        return tables[0], files, {name: column[rows] for name, column in columns.items()}


def _cell(row: Row, name: str, missing: str | None = None) -> str:
    """A cell of a column whose name has hyphens or underscores."""
    other = name.replace("-", "_")
    return row.text(name if row.column(name) is not None else other, missing)


def _number(text: str, row: Row) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{row.source}: camera_yaw is {text!r}; a number is expected")
    return found


def _inside(name: str, row: Row) -> str:
    """A name that does not lead out of its folder."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{row.source}: {name!r} is not the name of a file or a folder")
    return name


def _bytes(pictures: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Pictures of 0 and 1, or of 0 to 255, as the latter."""
    if not pictures.size:
        raise UserError(f"{path}: {name} has pictures of the shape {pictures.shape[1:]}")
    if pictures.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{path}: {name} holds {pictures.dtype.name}; uint8 is expected")
    pictures = pictures.astype(np.uint8, copy=False)
    return pictures * np.uint8(255) if pictures.max() <= 1 else pictures


def _resized(pictures: Tensor, size: int) -> Tensor:
    """uint8 (M, H, W) or (M, H, W, 3), resized with anti-aliasing."""
    if pictures.shape[1] == pictures.shape[2] == size:
        return pictures
    grey = pictures.ndim == 3
    found = []
    for part in pictures.split(4096):
        x = (part[:, None] if grey else part.movedim(3, 1)).float()
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
        found.append(x[:, 0] if grey else x.movedim(1, 3))
    return torch.cat(found)
