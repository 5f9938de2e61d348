"""Drawn chest radiographs with findings: real lung outlines, real joint frequencies of findings, in two domains."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.images.batch_transforms import BatchPreprocess
from datamodules.robustness.digit_attributes import LabelledArrays
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.pictures import open_picture
from framework.readers.tables import read_rows
from framework.readers.unpacking import zip_members
from framework.settings import at_least, one_of

Domain = Literal["private", "public"]
MASKS, TABLE = "semantic_masks_v7labs_lungs.zip", "Data_Entry_2017_v2020.csv"
FINDINGS = ("atelectasis", "cardiomegaly", "effusion", "pneumonia")
NO_FINDING = "no finding"
SIDE = 64
"""Side of an outline in pixels; it fills its square."""
_SHARES = {"public": 0.3, "train": 0.4, "val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Appearance:
    """How the pictures of a domain look.

    Attributes:
        photons: Photons per pixel where nothing is in their way; the noise is Poisson's.
        hardness: Attenuation of a body's thickness.
        texture: Standard deviation of the low-frequency texture, in units of a body's thickness.
        cells: Cells of the texture along a side.
        ribs: Density of a rib.
        window: Attenuations that become black and white.
        tempering: Power of the table's frequencies; below 1 rare combinations are more frequent.
    """

    photons: float
    hardness: float
    texture: float
    cells: int
    ribs: float
    window: tuple[float, float]
    tempering: float


APPEARANCES: dict[Domain, Appearance] = {
    "private": Appearance(2000.0, 2.2, 0.04, 8, 0.12, (0.3, 3.3), 1.0),
    "public": Appearance(400.0, 1.6, 0.08, 5, 0.18, (0.0, 3.0), 0.5),
}


@dataclass(frozen=True)
class Outlines:
    """Lungs, each outline cut to the box around both.

    Attributes:
        shapes: Shares of a pixel that are lung, float32 (N, SIDE, SIDE).
        aspects: Width of the box in units of its height (N,).
        bases: Where the lung at the left and at the right of the picture ends, from 0 to 1 of the height (N, 2).
    """

    shapes: np.ndarray
    aspects: np.ndarray
    bases: np.ndarray

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, rows: np.ndarray) -> Outlines:
        return Outlines(self.shapes[rows], self.aspects[rows], self.bases[rows])


@dataclass(frozen=True)
class Frequencies:
    """Which findings come together.

    Attributes:
        combinations: Findings and ``no finding``, 0 and 1, int64 (C, 5); a row of zeros is of other findings.
        counts: Radiographs of each (C,).
    """

    combinations: np.ndarray
    counts: np.ndarray


def shipped_folder() -> Path:
    """Returns the folder of masks and tables in the installed TorchXRayVision, without importing it.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise UserError(
            "path: none given, and the outlines are torchxrayvision's: pip install 'modular-framework[radiographs]'"
        )
    return Path(spec.origin).parent / "data"


def read_outlines(archive: Path) -> Outlines:
    """Returns the lungs of a zip archive of masks, white on black; pictures without two lungs are left out.

    Raises:
        UserError: the archive is missing or broken, a picture cannot be read, or fewer than four have two lungs.
    """
    with zip_members(archive, "a zip archive of lung masks") as members:
        # a member has what the reader of pictures uses of a path
        found = [_outline(open_picture(cast(Path, member), "L")) for member in members]
    kept = [outline for outline in found if outline is not None]
    if len(kept) < len(_SHARES):
        raise UserError(f"{archive}: {len(kept)} of {len(found)} masks have two lungs; {len(_SHARES)} are needed")
    shapes, aspects, bases = zip(*kept, strict=True)
    return Outlines(np.stack(shapes), np.array(aspects, np.float32), np.array(bases, np.float32))


def _outline(picture) -> tuple[np.ndarray, float, list[float]] | None:  # type: ignore[no-untyped-def]
    """Shape, aspect and bases of one mask; none where there are not two large regions. Grey is of other marks."""
    from PIL import Image
    from scipy import ndimage

    width, height = picture.size
    white = picture.point([0] * 192 + [255] * 64).resize((2 * SIDE, 2 * SIDE), Image.Resampling.BOX)
    values = np.asarray(white, np.float32) / 255
    regions, _ = ndimage.label(values > 0.5)
    sizes = np.bincount(regions.ravel())[1:]
    largest = np.argsort(-sizes, kind="stable")[:2]
    if len(largest) < 2 or sizes[largest].min() < 0.01 * values.size:
        return None
    lungs = np.isin(regions, largest + 1)
    rows, columns = np.flatnonzero(lungs.any(1)), np.flatnonzero(lungs.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    kept = Image.fromarray(np.where(ndimage.binary_dilation(lungs), values * 255, 0).astype(np.uint8))
    shape = np.asarray(kept.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box), np.float32) / 255
    halves = shape[:, : SIDE // 2], shape[:, SIDE // 2 :]
    if not all((half > 0.5).any() for half in halves):
        return None
    bases = [(np.flatnonzero((half > 0.5).any(1))[-1] + 1) / SIDE for half in halves]
    return shape, (box[2] - box[0]) * width / ((box[3] - box[1]) * height), bases


def read_frequencies(table: Path) -> Frequencies:
    """Returns how often findings come together in a table with ``Finding Labels`` such as ``Effusion|Mass``.

    Raises:
        UserError: the table is missing or broken, has no row, or a row has no label.
    """
    rows = read_rows(table)
    counts: Counter[tuple[int, ...]] = Counter()
    for row in rows:
        names = {name.strip().lower() for name in row.text("Finding Labels").split("|")}
        if names == {""}:
            raise UserError(f"{row.source}: Finding Labels is empty; names such as Effusion|Mass, or No Finding")
        if NO_FINDING in names and len(names) > 1:
            raise UserError(f"{row.source}: Finding Labels has No Finding and a finding")
        counts[tuple(int(name in names) for name in (*FINDINGS, NO_FINDING))] += 1
    if not counts:
        raise UserError(f"{table}: has no row")
    ordered = sorted(counts)
    return Frequencies(np.array(ordered), np.array([counts[own] for own in ordered], float))


def draw_labels(frequencies: Frequencies, count: int, look: Appearance, rng: np.random.Generator) -> np.ndarray:
    """Returns indices of combinations (count,), drawn by their frequencies to the power of the look's tempering.

    Args:
        frequencies: The table's.
        count: How many to draw.
        look: The domain's.
        rng: Draws them.
    """
    weights = frequencies.counts**look.tempering
    return rng.choice(len(weights), count, p=weights / weights.sum())


def draw_phantoms(
    outlines: Outlines, findings: np.ndarray, size: int, look: Appearance, rng: np.random.Generator
) -> np.ndarray:
    """Returns pictures, bytes (B, 1, size, size).

    Positions are ``u``, -1 to 1 across both lungs (the heart is at ``u > 0``), and ``v``, 0 to 1 from apex to base.
    Findings fill air: an effusion from the base up to a surface that rises outwards (meniscus), atelectasis as a flat
    band near the base, pneumonia as a soft patch; cardiomegaly is a wider heart; other findings are a small disc.

    Args:
        outlines: Lungs of each phantom.
        findings: Labels of each, as in :class:`Frequencies` (B, 5).
        size: Side in pixels.
        look: The domain's.
        rng: Draws everything.
    """
    count = len(findings)
    atelectasis, cardiomegaly, effusion, pneumonia = findings[:, : len(FINDINGS)].astype(bool).T
    other = np.asarray(findings.sum(1) == 0)

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    def side() -> np.ndarray:
        return np.where(rng.random((count, 1, 1)) < 0.5, np.float32(-1), np.float32(1))

    def where(present: np.ndarray) -> np.ndarray:
        return present[:, None, None].astype(np.float32)

    # The affine map of the picture's points to u and v.
    ticks = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    x, y = ticks[None, None, :] - uniform(-0.06, 0.06), ticks[None, :, None] - uniform(0.0, 0.1)
    angle, half = uniform(-0.1, 0.1), uniform(0.64, 0.76)
    high = np.clip(half / outlines.aspects[:, None, None] * uniform(0.94, 1.06), 0.5, 0.85)
    u = (np.cos(angle) * x + np.sin(angle) * y) / half
    v = ((np.cos(angle) * y - np.sin(angle) * x) / high + 1) / 2

    grid = torch.from_numpy(np.stack([u, 2 * v - 1], -1))
    air = F.grid_sample(torch.from_numpy(outlines.shapes)[:, None], grid, align_corners=False)[:, 0].numpy()
    base = np.where(u < 0, outlines.bases[:, :1, None], outlines.bases[:, 1:, None])

    width = uniform(0.34, 0.44) + where(cardiomegaly) * uniform(0.12, 0.2)
    tall = uniform(0.2, 0.25) + where(cardiomegaly) * uniform(0.02, 0.05)
    radius = np.hypot((u - uniform(0.08, 0.16)) / width, (v - uniform(0.72, 0.8)) / tall)
    heart = _step((1 - radius) / 0.08)

    surface = base - uniform(0.12, 0.35) - uniform(0.1, 0.2) * (2 * np.abs(u) - 1) * np.abs(u)
    reach = np.clip(side() * u * 20, 0, 1)
    reach = np.where(rng.random((count, 1, 1)) < 0.25, np.float32(1), reach)  # on both sides
    fluid = where(effusion) * reach * _step((v - surface) / 0.015)

    level = base - uniform(0.14, 0.3) + uniform(-0.1, 0.1) * (np.abs(u) - 0.5)
    band = np.clip(side() * u * 20, 0, 1) * np.exp(-(((v - level) / uniform(0.02, 0.04)) ** 2))
    collapse = where(atelectasis) * uniform(0.5, 0.9) * band

    across, down, spread = side() * uniform(0.4, 0.65), uniform(0.25, 0.7), uniform(0.16, 0.28)
    patch = np.exp(-(((u - across) / spread) ** 2) - ((v - down) / (0.6 * spread)) ** 2)
    infiltrate = where(pneumonia) * uniform(0.5, 0.8) * patch

    across, down, spread = side() * uniform(0.35, 0.65), uniform(0.2, 0.7), uniform(0.07, 0.12)
    disc = _step((1 - np.hypot((u - across) / spread, (v - down) * 2 * high / (spread * half))) / 0.2)
    nodule = where(other) * uniform(0.6, 0.9) * disc

    for filled in (0.9 * heart, 0.95 * fluid, collapse, infiltrate, nodule):
        air = air * (1 - filled)
    body = _step((0.35 + 0.95 * _step((v + 0.1) / 0.06) - np.abs(u)) / 0.05)
    spine = 0.3 * np.exp(-((u / 0.12) ** 2))
    phase = uniform(8, 10) * v - uniform(1.5, 2.5) * u**2 + uniform(0, 1)
    ribs = look.ribs * _step((np.cos(2 * np.pi * phase) - 0.4) / 0.15) * _step((1.1 - np.abs(u)) / 0.05)
    ribs = ribs * _step(np.minimum(v + 0.05, 1.1 - v) / 0.03)
    cells = torch.from_numpy(rng.normal(0, look.texture, (count, 1, look.cells, look.cells)).astype(np.float32))
    texture = F.interpolate(cells, (size, size), mode="bicubic", align_corners=False)[:, 0].numpy()
    thickness = body * (1 + spine + ribs + texture - 0.7 * air)
    gain = look.photons * uniform(0.85, 1.2)
    photons = rng.poisson(gain * np.exp(-look.hardness * thickness))
    attenuation = np.float32(np.log(look.photons)) - np.log(photons + 1, dtype=np.float32)
    low, top = look.window
    return np.rint(255 * np.clip((attenuation - low) / (top - low), 0, 1)).astype(np.uint8)[:, None]


def _step(values: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 0.5 + 0.5 * np.tanh(values / 2)


class ChestPhantom(DataModule):
    """Phantoms of frontal radiographs with five labels: atelectasis, cardiomegaly, effusion, pneumonia, no finding.

    Batches are ``(x, y)``: ``x`` float32 ``(B, 1, image_size, image_size)`` from -2 (black) to 2, ``y`` int64
    ``(B, 5)`` of 0 and 1. Lungs have real outlines, randomly turned, scaled and shifted; heart, spine, ribs and texture
    are drawn, and the noise is that of photons. Findings come together as in ChestX-ray14: of its 112,120 radiographs
    10% have atelectasis, 2.5% cardiomegaly, 12% effusion, 1.3% pneumonia; a quarter has other findings only, which are
    a disc here. No outline is in two parts. The public domain has fewer photons, softer rays, coarser texture, denser
    ribs, another window, and frequencies to the power 1/2. Every phantom is a patient of its own.

    These are drawings: a number on them says nothing about a clinic. Differential privacy of a run covers the phantoms,
    as if each was a patient.

    Reads: ``semantic_masks_v7labs_lungs.zip`` (lung masks, white on black) and ``Data_Entry_2017_v2020.csv`` (or
        ``.csv.gz``), of which ``Finding Labels``. Without a path: those that TorchXRayVision ships
        (``pip install .[radiographs]``).

    Args:
        path: Folder with the two files; by default that of the installed package.
        domain: ``private``, or ``public``: the domain of the three parts.
        train_samples: Phantoms to train on.
        val_samples: Phantoms to validate on.
        test_samples: Phantoms to test on.
        public_samples: Phantoms of the public domain to pretrain on; 0 for none.
        image_size: Side of the images in pixels.
        seed: Seed of the outlines' parts and of all drawing.
        batch_size: Phantoms in a training batch, per process.
        eval_batch_size: Phantoms in an evaluation batch.
        num_workers: Loader processes.

    Attributes:
        num_labels: 5.
        label_names: Their names.
        source: ``x`` and classes ``y`` of the public phantoms (after ``setup`` to fit); the class is the combination of
            findings. Empty without any.
        channels: 1.

    Raises:
        UserError: a setting is not accepted (in the constructor); the package is not installed, or a file is missing or
            broken (in ``setup``).
    """

    label_names, num_labels, channels = (*FINDINGS, "no_finding"), len(FINDINGS) + 1, 1

    def __init__(
        self,
        path: str | Path | None = None,
        domain: Domain = "private",
        train_samples: int = 3000,
        val_samples: int = 500,
        test_samples: int = 1000,
        public_samples: int = 3000,
        image_size: int = 64,
        seed: int = 0,
        batch_size: int = 128,
        eval_batch_size: int | None = 500,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        one_of(get_args(Domain), domain=domain)
        at_least(1, train_samples=train_samples, val_samples=val_samples, test_samples=test_samples)
        at_least(0, public_samples=public_samples, seed=seed)
        at_least(16, image_size=image_size)
        self.path, self.domain, self.image_size, self.seed = path, domain, image_size, seed
        self.samples = {"train": train_samples, "val": val_samples, "test": test_samples, "public": public_samples}
        self.source: dict[str, Tensor] = {}
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using the lung masks and labels of torchxrayvision")

    def setup(self, stage: str | None = None) -> None:
        """Reads outlines and frequencies, and draws the phantoms, once.

        Raises:
            UserError: the package is not installed, or a file is missing or broken.
        """
        if self.train_set is not None:
            return
        folder = shipped_folder() if self.path is None else Path(self.path).expanduser()
        tables = (folder / TABLE, folder / f"{TABLE}.gz")
        frequencies = read_frequencies(next((table for table in tables if table.exists()), tables[0]))
        outlines = read_outlines(folder / MASKS)
        order = np.random.default_rng(self.seed).permutation(len(outlines))
        ends = np.maximum(np.cumsum(list(_SHARES.values())) * len(order), np.arange(1, len(_SHARES) + 1)).astype(int)
        rows = dict(zip(_SHARES, np.split(order, ends[:-1]), strict=True))
        transform = BatchPreprocess(self.image_size, 1, (0.5,), (0.25,))  # constants: of no private picture

        def part(name: str) -> LabelledArrays:
            images, labels = self._draw(name, self.domain, outlines[rows[name]], frequencies)
            return LabelledArrays(images, torch.from_numpy(frequencies.combinations[labels]), transform)

        self.train_set, self.val_set, self.test_set = part("train"), part("val"), part("test")
        if stage in (None, "fit") and self.samples["public"]:
            images, labels = self._draw("public", "public", outlines[rows["public"]], frequencies)
            self.source = {"x": transform(images), "y": torch.from_numpy(labels)}

    def _draw(
        self, part: str, domain: Domain, outlines: Outlines, frequencies: Frequencies
    ) -> tuple[Tensor, np.ndarray]:
        """Images of one part, bytes (N, 1, S, S), and the indices of their combinations (N,)."""
        rng = np.random.default_rng((self.seed, list(_SHARES).index(part), get_args(Domain).index(domain)))
        labels = draw_labels(frequencies, self.samples[part], APPEARANCES[domain], rng)
        chosen = rng.integers(0, len(outlines), len(labels))
        images = [
            draw_phantoms(
                outlines[chosen[start : start + 256]],
                frequencies.combinations[labels[start : start + 256]],
                self.image_size,
                APPEARANCES[domain],
                rng,
            )
            for start in range(0, len(labels), 256)
        ]
        return torch.from_numpy(np.concatenate(images)), labels
