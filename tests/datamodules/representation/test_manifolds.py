"""Points on known manifolds lie on them."""

import numpy as np
import pytest

from datamodules.representation.manifolds import curve_union, double_spiral
from framework.errors import UserError


def test_the_second_spiral_is_the_negative_of_the_first():
    x, y = double_spiral(500)
    points = x * np.where(y, -1, 1)[:, None]
    radius = np.linalg.norm(points, axis=1)
    expected = radius[:, None] * np.stack([np.cos(radius), np.sin(radius)], 1)
    np.testing.assert_allclose(points, expected, atol=1e-4)
    assert 1.5 * np.pi <= radius.min()
    assert radius.max() <= 4.5 * np.pi
    assert np.bincount(y).tolist() == [250, 250]


def test_curves_are_of_length_one_in_orthogonal_subspaces_of_four_dimensions():
    x, y = curve_union(400, 3, 15)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    for k in range(3):
        assert np.linalg.matrix_rank(x[y == k], tol=1e-4) == 4
        assert np.abs(x[y == k] @ x[y == (k + 1) % 3].T).max() < 1e-6
    assert not np.array_equal(curve_union(400, 3, 15, seed=1)[0], x)


def test_too_few_dimensions_are_refused():
    with pytest.raises(UserError, match="4 x curves: 16 is not accepted; at most 15"):
        curve_union(10, 4, 15)
    with pytest.raises(UserError, match="samples: 1 is not accepted"):
        double_spiral(1)
