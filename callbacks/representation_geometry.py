"""Representation geometry: how far training moves the embeddings of fixed examples, and how many dimensions they use.

Paper: Tayebi Arasteh, Mohammadi, Nebelung, Truhn, 2026, "Differential privacy representation geometry for medical image
analysis", arXiv 2603.01098.

Logged at the start, after ``epochs`` and at the end, for embeddings z_i (by default of norm 1) of the same examples:

- ``representation_geometry/displacement``: Δ = mean |z_i - z_i⁰|², z⁰ those before the first step; not aligned, so a
  rotation counts;
- ``representation_geometry/effective_dimension``: tr(Σ)² / |Σ|_F², the participation ratio of the eigenvalues of their
  covariance.

``representation_geometry.json`` has them with mean, deviation and 95 % interval over bootstrap resamples, the hash of
the resamples, and the spectra of start and end; figures show spectra and curves. The effective dimension depends on the
number of examples and is biased low by the bootstrap: compare at equal numbers, and by the point value. With ``save``
the embeddings themselves are written, ``representation_geometry.npz``.

An embedding is what goes into the head (or into ``layer``) of any module with a ``forward`` on the inputs. Cost: a pass
over the examples per look, and at the end a Gram matrix of them (10,000 examples: some ten seconds). The embeddings of
the start are in the checkpoint. After an edit that changes their size, the displacement is that from the edit on.

These numbers are not part of a differentially private release: they are measured on raw examples, without noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from framework.figures import new_figure
from framework.files import written
from framework.functional.embedding_geometry import (
    displacements,
    effective_dimension,
    eigenvalues,
    resampled_dimensions,
)
from framework.functional.resampling import Interval
from framework.observing.diagnostics import EmbeddingObserver, Look, Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def geometry_of(z: np.ndarray, start: np.ndarray | None = None, counts: np.ndarray | None = None) -> Look:
    """Measures embeddings of any encoder.

    Args:
        z: Embeddings (N, D); normalise them first (:func:`~framework.functional.embedding_geometry.unit_rows`).
        start: Embeddings of the same examples before training (N, D); without them there is no displacement.
        counts: How often each example occurs in each resample (R, N); without them there are no intervals.

    Returns:
        ``displacement`` and ``effective_dimension``; details: ``eigenvalues`` (D,), descending, and by name an
        :class:`~framework.functional.resampling.Interval` under ``intervals``.
    """
    if not np.isfinite(z).all():  # training has diverged; to stop it is not an observer's business
        return Look({"effective_dimension": float("nan")}, {})
    spectrum = eigenvalues(z)
    numbers = {"effective_dimension": effective_dimension(spectrum)}
    details: dict[str, Any] = {"eigenvalues": spectrum.tolist()}
    moved = None if start is None else displacements(z, start)
    if moved is not None:
        numbers["displacement"] = float(moved.mean())
    if counts is not None:
        values = {"effective_dimension": resampled_dimensions(z, counts)}
        if moved is not None:
            values["displacement"] = counts @ moved / counts.sum(1)
        details["intervals"] = {name: Interval.of(numbers[name], found).as_dict() for name, found in values.items()}
    return Look(numbers, details)


def geometry_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draws the spectra of the first and the last row, and the two numbers over epochs."""
    figure = new_figure(columns=3, size=(11.0, 3.3))
    spectra, moved, dimension = figure.axes
    seen = [row for row in rows if "eigenvalues" in row]
    for row in seen[:: max(1, len(seen) - 1)]:
        values = np.array(row["eigenvalues"])
        shares = np.where(values > 0, values, np.nan) / max(values.sum(), 1e-300)
        label = f"epoch {row['epoch']}" if row["epoch"] else "start"
        spectra.plot(np.arange(1, len(values) + 1), shares, "o-", markersize=2.5, label=label)
    spectra.set(xlabel="rank", ylabel="share of the variance", yscale="log")
    if seen:
        spectra.legend(frameon=False, fontsize=8)
    for axes, name in ((moved, "displacement"), (dimension, "effective_dimension")):
        axes.plot([r["epoch"] for r in rows], [r.get(name, np.nan) for r in rows], "o-", markersize=4)
        axes.set(xlabel="epochs", ylabel=name.replace("_", " "))
        axes.ticklabel_format(useOffset=False)
    return figure


class RepresentationGeometry(EmbeddingObserver):
    """Logs, draws and reports displacement, effective dimension and spectra of embeddings.

    Args:
        layer: Name of the layer whose input is the embedding; by default the model's head.
        part: ``train``, ``val`` or ``test``: the data whose examples are embedded.
        epochs: Epochs after which to look, 0 being the start. The end is always one.
        normalize: Whether embeddings are divided by their norms.
        examples: Largest number of examples, drawn at random from more; null for all.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples and of the choice of examples.
        batch_size: Examples in a pass of the network.
        save: Whether the embeddings of start and end are written to ``representation_geometry.npz``.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no ``forward``, or there is no such
            layer or data (before training).
    """

    technique = "representation_geometry"

    def __init__(
        self,
        layer: str | None = None,
        part: Part = "val",
        epochs: tuple[int, ...] = (0,),
        normalize: bool = True,
        examples: int | None = 10_000,
        resamples: int = 1000,
        seed: int = 0,
        batch_size: int = 256,
        save: bool = False,
    ) -> None:
        super().__init__(layer, part, epochs, normalize, examples, resamples, seed, batch_size)
        self.save = save
        self.start: Tensor | None = None
        self._saved: dict[str, Any] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Embeds the examples before the first step."""
        if trainer.global_step == 0 and batch_idx == 0 and not self.rows:
            self.start = torch.from_numpy(self.embed(trainer, pl_module, self.part, self.examples)[0])
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def look(self, trainer: pl.Trainer, module: pl.LightningModule, part: Part, last: bool) -> Look:
        """Measures the examples of a part."""
        raw, targets = self.embed(trainer, module, part, self.examples)
        if part == self.part and self.start is not None and self.start.shape != raw.shape and trainer.state.fn == "fit":
            self.start = torch.from_numpy(raw)
        known = part == self.part and self.start is not None and self.start.shape == raw.shape
        z = self.scaled(raw)
        start = self.scaled(self.start.numpy()) if known and self.start is not None else None
        counts, about = self.counts(len(z)) if last else (None, {})
        found = geometry_of(z, start, counts)
        if self.save and last and start is not None:
            self._saved = {"z": z.astype(np.float32), "z_start": start.astype(np.float32), "y": targets}
        return Look(found.numbers, {**found.details, **({"bootstrap": about} if last else {})})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the report, the figure and, if asked for, the embeddings."""
        super().on_train_end(trainer, pl_module)
        if self._saved and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            with written(Path(trainer.default_root_dir) / f"{self.technique}.npz") as path, path.open("wb") as file:
                np.savez(file, **self._saved)

    def figure(self) -> Figure | None:
        """Draws spectra and curves."""
        return geometry_figure(self.rows) if self.rows else None

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows so far, and the embeddings at the start."""
        return {**super().state_dict(), "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        super().load_state_dict(state_dict)
        self.start = state_dict["start"]
