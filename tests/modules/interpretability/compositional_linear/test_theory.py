"""Readouts that the paper proves of orthogonal grids, and that there are none in too few dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from framework.errors import UserError
from modules.interpretability.compositional_linear import FreeEmbeddings
from modules.interpretability.compositional_linear.theory import (
    cross_support,
    expected_readouts,
    grid_labels,
    max_margin_readouts,
    most_cells,
    orthogonal_grid,
    random_support,
    separable,
)

LABELS = grid_labels([2] * 4)


def test_every_valid_support_has_the_same_readouts():
    """Check 5: k = 4, d = 10; 20 random supports of 9, all cross sets of 5."""
    generator = np.random.default_rng(0)
    z, differences = orthogonal_grid(4, 10, generator)
    expected = expected_readouts(differences)
    supports = [random_support(LABELS, generator) for _ in range(20)]
    supports += [cross_support(LABELS, base) for base in range(16)]
    assert {len(rows) for rows in supports} == {5, 9}
    first = None
    for rows in supports:
        w, b = max_margin_readouts(z[rows], LABELS[rows])
        assert (np.linalg.norm(w - expected, axis=1) <= 1e-3 * np.linalg.norm(expected, axis=1)).all()
        assert (((z @ w.T + b) > 0) == LABELS).all()
        first = w if first is None else first
        assert np.abs(w - first).max() <= 1e-3


def test_readouts_of_factors_that_are_not_orthogonal_depend_on_the_support():
    """Check 5."""
    _, differences = orthogonal_grid(4, 10, np.random.default_rng(0))
    z = (LABELS - 0.5) @ (differences + 0.6 * differences[[1, 2, 3, 0]])
    found = []
    for base in range(16):
        rows = cross_support(LABELS, base)
        found.append(max_margin_readouts(z[rows], LABELS[rows])[0])
    apart = np.linalg.norm(np.stack(found) - found[0], axis=2) / np.linalg.norm(found[0], axis=1)
    assert apart.max() > 0.05


def test_gradient_descent_ends_in_their_direction():
    """Check 6: cross-entropy of a cross set; each step is divided by the mean error: the same path in less time."""
    z, differences = orthogonal_grid(4, 10, np.random.default_rng(1))
    rows = cross_support(LABELS, 3)
    x, y = z[rows] - z.mean(0), LABELS[rows]
    w, b, signs = np.zeros((4, 10)), np.zeros(4), 2 * y - 1
    for _ in range(8000):
        logs = -np.logaddexp(0, signs * (x @ w.T + b))  # of the errors, which are far below the smallest float
        shares = np.exp(logs - logs.max(0))
        step = signs * shares / shares.mean(0) / 4
        w += step.T @ x
        b += step.sum(0)
    assert logs.max() < -100
    for expected in (max_margin_readouts(z[rows], y)[0], expected_readouts(differences)):
        cosines = (w * expected).sum(1) / np.linalg.norm(w, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosines.min() > 0.99


def test_fewer_dimensions_than_concepts_are_too_few():
    """Check 8: k = 4, d = 3, five seeds; training never reaches 1, and linear programs find no separators."""
    assert most_cells(4, 3) == 15 < 16
    assert most_cells(4, 4) == 16
    model = FreeEmbeddings(4, 2, dims=[3, 4], seeds=[0, 1, 2, 3, 4], space="euclidean", loss="ce")
    batch = {"labels": torch.from_numpy(LABELS)}
    model.simulate(batch, 600, at=[600])
    worst = model.trajectory()["worst"][-1]
    assert (worst[:5] < 1).all()
    assert (worst[5:] == 1).all()
    for member, enough in [(0, False), (3, False), (5, True)]:
        z = model.z[member].detach().double().numpy()
        assert all(separable(z, LABELS[:, i]) for i in range(4)) == enough
    rng = np.random.default_rng(0)
    assert not any(all(separable(z, LABELS[:, i]) for i in range(4)) for z in rng.normal(size=(5, 16, 3)))


def test_separability_by_a_case():
    square = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    assert separable(square, np.array([0, 0, 1, 1]))
    assert not separable(square, np.array([0, 1, 1, 0]))


def test_what_is_refused():
    with pytest.raises(UserError, match="dimension"):
        orthogonal_grid(4, 3, np.random.default_rng(0))
    with pytest.raises(UserError, match="concept 1 has one value only"):
        max_margin_readouts(np.eye(2), np.array([[0, 1], [1, 1]]))
    with pytest.raises(UserError, match="base"):
        cross_support(LABELS, 16)
