"""The numbers that the observer logs (arXiv 1908.05168)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor, nn

from framework.functional.linear_scope import (
    BiasReliance,
    ColumnLocality,
    DCGain,
    LinearInterpreter,
    NormMode,
    SmoothMode,
    affine_parts,
    centres_of,
)


def classes_of(labels: Tensor | None, outputs: int) -> Tensor | None:
    """Returns labels (N,) if each is the number of one of the outputs (of a single one: 0 or 1), else ``None``."""
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        return None
    return labels if labels.min() >= 0 and labels.max() < max(2, outputs) else None


def measure_classes(
    model: nn.Module,
    batches: Iterable[Tensor],
    labels: Tensor | None,
    smooth_mode: SmoothMode = "auto",
    norm_mode: NormMode = "linear_mean",
) -> dict[str, float]:
    """Returns the accuracies of f, F x and r where there are classes, ‖r‖/‖f‖ and the error.

    Args:
        model: Maps images to numbers (N, C).
        batches: Batches of images.
        labels: Classes of all of them (N,); accuracies are left out if these are not numbers of outputs.
        smooth_mode: See :class:`framework.functional.linear_scope.LinearInterpreter`.
        norm_mode: The same.
    """
    y, r, error = affine_parts(model, batches, smooth_mode, norm_mode)
    y, r = (part.reshape(len(part), -1) for part in (y, r))
    reliance, classes = BiasReliance(), classes_of(labels, y.shape[1])
    reliance.update(y, r, torch.zeros(len(y)) if classes is None else classes.cpu())
    found = {name: float(value) for name, value in reliance.compute().items()}
    if classes is None:
        found = {"norm_ratio": found["norm_ratio"]}
    return {**found, "error": float(error.max() / y.abs().max().clamp(min=1e-300))}


def spread_places(shape: tuple[int, ...], count: int = 3) -> list[tuple[int, ...]]:
    """Returns ``count``² places (channel 0, row, column), evenly over the middle of (C, H, W)."""
    steps = [[round((i + 1) * (side - 1) / (count + 1)) for i in range(count)] for side in shape[-2:]]
    return [(0, row, column) for row, column in product(*steps)]


def measure_pictures(scope: LinearInterpreter, radius: float = 4.0) -> dict[str, float]:
    """Returns gain, locality, ‖r‖/‖f‖ and the error of an open interpreter whose outputs are pictures.

    Args:
        scope: The interpreter.
        radius: Of the locality, in pixels of the output.
    """
    gain, locality = DCGain(), ColumnLocality(radius)
    gain.update(scope.matvec(torch.ones(1, *scope.input_shape)).cpu())
    places = spread_places(scope.input_shape)
    columns = scope.columns(places).values.cpu()
    centres = centres_of(torch.tensor(places), scope.input_shape, scope.output_shape)
    for found in columns:
        locality.update(found, centres)
    y, r = scope.y.flatten(1), scope.residual().flatten(1)
    sums = gain.compute()
    return {
        "dc_gain": float(sums["mean"]),
        "dc_gain_std": float(sums["std"]),
        "locality": float(locality.compute()),
        "norm_ratio": float((r.norm(dim=1) / y.norm(dim=1).clamp(min=1e-300)).mean()),
        "error": float(scope.error.max() / y.abs().max().clamp(min=1e-300)),
    }
