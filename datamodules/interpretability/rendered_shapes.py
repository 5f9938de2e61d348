"""Squares, ellipses and hearts as in dSprites, drawn with anti-aliasing, and files in its format.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (the data set that these stand in for; six factors, orientations below 90°).

Run: ``python -m datamodules.interpretability.rendered_shapes FILE.npz`` writes such a file, with ``--size`` and the
numbers of values ``--scales``, ``--orientations`` and ``--positions``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framework.errors import UserError
from framework.files import written
from framework.settings import at_least, between

LATENTS = ("color", "shape", "scale", "orientation", "posX", "posY")
SHAPES = ("square", "ellipse", "heart")
SUBSAMPLES = 4  # points across a pixel whose share inside of the shape is its value
HALF = 0.17  # half the side of a square of scale 1, as a share of the picture's side


def inside_shape(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns which points are inside of a shape, bool (N, …).

    Args:
        shape: 0 for a square of half side 1, 1 for an ellipse, 2 for a heart, (N,).
        x: To the right, (N, …).
        y: Upwards, (N, …).
    """
    found = np.empty(x.shape, dtype=bool)
    for kind in np.unique(shape):
        own = shape == kind
        p, q = x[own], y[own]
        if kind == 0:
            found[own] = np.maximum(np.abs(p), np.abs(q)) < 1
        elif kind == 1:
            found[own] = (p / 1.25) ** 2 + (q / 0.75) ** 2 < 1
        else:
            found[own] = (p**2 + q**2 - 1) ** 3 < p**2 * q**3
    return found


def render_shapes(
    shape: np.ndarray, scale: np.ndarray, orientation: np.ndarray, x: np.ndarray, y: np.ndarray, size: int = 64
) -> np.ndarray:
    """Draws white shapes on black.

    Args:
        shape: 0 square, 1 ellipse, 2 heart, (N,).
        scale: 1 is a square with 0.34 of the picture's side, (N,).
        orientation: Counter-clockwise in radians, (N,).
        x: Of the centre, 0 leftmost, 1 rightmost; any shape of scale 1 lies inside of the picture, (N,).
        y: The same, 0 at the top.
        size: Side of a picture in pixels.

    Returns:
        uint8 (N, size, size): the share of each pixel that is covered, times 255.

    Raises:
        UserError: the side is below 4.
    """
    at_least(4, size=size)
    fine = size * SUBSAMPLES
    pixels = (np.arange(fine) + 0.5) / fine
    found = np.empty((len(shape), size, size), np.uint8)
    for start in range(0, len(shape), 64):
        rows = slice(start, start + 64)
        radius = (HALF * scale[rows])[:, None, None]
        right = (pixels[None, None, :] - (0.25 + 0.5 * x[rows])[:, None, None]) / radius
        up = ((0.25 + 0.5 * y[rows])[:, None, None] - pixels[None, :, None]) / radius
        cosine, sine = (function(orientation[rows])[:, None, None] for function in (np.cos, np.sin))
        inside = inside_shape(shape[rows], cosine * right + sine * up, cosine * up - sine * right)
        shares = inside.reshape(-1, size, SUBSAMPLES, size, SUBSAMPLES).mean((2, 4))
        found[rows] = np.rint(255 * shares).astype(np.uint8)
    return found


def render_grid(
    shapes: int = 3, scales: int = 4, orientations: int = 5, positions: tuple[int, int] = (5, 5), size: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws every combination.

    Args:
        shapes: Number of shapes, 1 to 3.
        scales: Number of sizes, from 0.5 to 1.
        orientations: Number of angles, from 0 to below 90°.
        positions: Numbers of columns and rows.
        size: Side of a picture in pixels.

    Returns:
        Pictures uint8 (N, size, size), and classes and values (N, 6) in the order of :data:`LATENTS`.

    Raises:
        UserError: a number is not accepted.
    """
    at_least(1, scales=scales, orientations=orientations, positions=list(positions))
    between(1, 3, shapes=shapes)
    values = (
        np.ones(1),
        np.arange(1.0, shapes + 1),
        np.linspace(0.5, 1, scales) if scales > 1 else np.ones(1),
        np.arange(orientations) * (math.pi / 2 / orientations),
        *(np.linspace(0, 1, count) if count > 1 else np.full(1, 0.5) for count in positions),
    )
    grids = np.meshgrid(*(np.arange(len(each)) for each in values), indexing="ij")
    classes = np.stack(grids, -1).reshape(-1, 6)
    found = np.stack([each[column] for each, column in zip(values, classes.T, strict=True)], 1)
    pictures = render_shapes(classes[:, 1], found[:, 2], found[:, 3], found[:, 4], found[:, 5], size)
    return pictures, classes, found


def write_dsprites(
    path: Path,
    shapes: int = 3,
    scales: int = 4,
    orientations: int = 5,
    positions: tuple[int, int] = (5, 5),
    size: int = 64,
) -> Path:
    """Writes every combination in the format of dSprites; its ``metadata`` are JSON instead of a pickle.

    Args:
        path: The ``.npz``.
        shapes: As in :func:`render_grid`.
        scales: The same.
        orientations: The same.
        positions: The same.
        size: The same.

    Raises:
        UserError: a number is not accepted, or the file cannot be written.
    """
    pictures, classes, values = render_grid(shapes, scales, orientations, positions, size)
    metadata = json.dumps({"latents_names": LATENTS, "latents_sizes": [int(n) + 1 for n in classes.max(0)]})
    with written(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, imgs=pictures, latents_classes=classes, latents_values=values, metadata=np.array(metadata)
        )
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the .npz to write")
    parser.add_argument("--size", type=int, default=64, help="side of a picture in pixels")
    parser.add_argument("--scales", type=int, default=6)
    parser.add_argument("--orientations", type=int, default=10)
    parser.add_argument("--positions", type=int, nargs=2, default=(10, 10))
    given = parser.parse_args(arguments)
    try:
        print(write_dsprites(given.file, 3, given.scales, given.orientations, tuple(given.positions), given.size))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
