"""Points on known manifolds: two spirals, and curves in subspaces that are orthogonal to each other."""

from __future__ import annotations

import numpy as np

from framework.settings import above, at_least, at_most


def double_spiral(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns points (N, 2) float32 of two spirals, the second the negative of the first, and which (N,).

    A spiral is t (cos t, sin t), t from 1.5 π to 4.5 π, as in the toy of NMCE (arXiv 2201.10000).

    Args:
        samples: N.
        seed: Of t.

    Raises:
        UserError: there are fewer than two.
    """
    at_least(2, samples=samples)
    draw = np.random.default_rng(seed)
    t = 1.5 * np.pi * (1 + 2 * draw.uniform(size=samples))
    y = np.arange(samples) % 2
    points = np.stack([t * np.cos(t), t * np.sin(t)], 1) * np.where(y, -1, 1)[:, None]
    return points.astype(np.float32), y.astype(np.int64)


def curve_union(samples: int, curves: int = 4, dimension: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns points (N, D) float32 of length 1 on curves, and which curve (N,).

    Curve k is Q_k (cos t, sin t, cos 2t, sin 2t)/√2, t from 0 to π, in the columns Q_k of one orthonormal matrix.

    Args:
        samples: N.
        curves: Number of curves; they need four dimensions each.
        dimension: D.
        seed: Of Q and t.

    Raises:
        UserError: there are too few dimensions.
    """
    at_least(1, samples=samples, curves=curves)
    above(0, dimension=dimension)
    at_most({"dimension": dimension}, **{"4 x curves": 4 * curves})
    draw = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(draw.normal(size=(dimension, 4 * curves)))
    t, y = np.pi * draw.uniform(size=samples), np.arange(samples) % curves
    local = np.stack([np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)], 1) / np.sqrt(2)
    points = np.einsum("ndk,nk->nd", basis.reshape(dimension, curves, 4).transpose(1, 0, 2)[y], local)
    return points.astype(np.float32), y.astype(np.int64)
