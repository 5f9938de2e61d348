"""Shapes: their areas, places and turns, and files in the format of dSprites."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datamodules.interpretability.factor_images import FactorImages
from datamodules.interpretability.rendered_shapes import (
    HALF,
    inside_shape,
    main,
    render_grid,
    render_shapes,
    write_dsprites,
)
from framework.errors import UserError


def one(shape=0, scale=1.0, orientation=0.0, x=0.5, y=0.5, size=64):
    return render_shapes(*(np.array([v]) for v in (shape, scale, orientation, x, y)), size)[0] / 255.0


def test_areas():
    side = 2 * HALF * 64
    assert one(0).sum() == pytest.approx(side**2, rel=0.03)
    assert one(0, orientation=0.5).sum() == pytest.approx(side**2, rel=0.03)
    assert one(1, 0.5).sum() == pytest.approx(math.pi * 1.25 * 0.75 * (side / 4) ** 2, rel=0.02)
    assert 0 < one(0, 0.61, 0.2)[one(0, 0.61, 0.2) < 1].max() < 1  # edges are shares


def test_places_and_turns():
    rows, columns = np.indices((64, 64))
    for x, y in ((0.0, 0.0), (1.0, 0.25), (0.5, 1.0)):
        picture = one(1, 0.8, 0.3, x, y)
        assert (picture * columns).sum() / picture.sum() == pytest.approx(64 * (0.25 + 0.5 * x) - 0.5, abs=0.1)
        assert (picture * rows).sum() / picture.sum() == pytest.approx(64 * (0.25 + 0.5 * y) - 0.5, abs=0.1)
    for shape in range(3):  # all shapes are inside of the picture
        for x in (0, 1):
            assert one(shape, 1.0, math.pi / 4, x, x).sum() == pytest.approx(
                one(shape, 1.0, math.pi / 4).sum(), rel=0.01
            )
    # a quarter turn counter-clockwise
    np.testing.assert_allclose(one(2, orientation=math.pi / 2), np.rot90(one(2)), atol=0.3)
    assert np.abs(one(2, orientation=math.pi / 2) - np.rot90(one(2))).mean() < 1e-3


def test_pixels_are_shares_by_loops():
    picture = one(2, 0.7, 0.4, 0.3, 0.6, 12)
    for row, column in [(5, 4), (6, 5), (7, 4), (4, 5), (6, 3)]:
        inside = 0
        for i in range(4):
            for j in range(4):
                a = ((column + (j + 0.5) / 4) / 12 - 0.4) / (HALF * 0.7)
                b = (0.55 - (row + (i + 0.5) / 4) / 12) / (HALF * 0.7)
                p, q = math.cos(0.4) * a + math.sin(0.4) * b, math.cos(0.4) * b - math.sin(0.4) * a
                inside += (p * p + q * q - 1) ** 3 < p * p * q**3
        assert picture[row, column] == pytest.approx(inside / 16, abs=1 / 255)


def test_a_grid_has_every_combination():
    pictures, classes, values = render_grid(3, 2, 3, (2, 4), 16)
    assert pictures.shape == (144, 16, 16)
    assert len(np.unique(classes, axis=0)) == 144
    assert sorted(set(values[:, 3])) == pytest.approx([0, math.pi / 6, math.pi / 3])
    assert inside_shape(np.array([0, 1, 2]), np.zeros((3, 1)), np.zeros((3, 1))).all()
    with pytest.raises(UserError, match="shapes"):
        render_grid(4)


def test_the_file_is_read_as_dsprites(tmp_path, capsys):
    path = write_dsprites(tmp_path / "a.npz", 3, 2, 3, (2, 2), 32)
    data = FactorImages("dsprites", path, image_size=32, colours=3)
    data.setup("fit")
    assert data.concepts == ("color", "shape", "scale", "orientation", "posX", "posY")
    assert data.sizes == (3, 3, 2, 3, 2, 2)
    rendered = FactorImages(colours=3, values={"scale": 2, "orientation": 3, "posX": 2, "posY": 2})
    rendered.setup("fit")
    own, other = (part.samples.__getitems__(list(range(216))) for part in (data, rendered))
    assert (own[0] == other[0]).all()
    assert (own[1] == other[1]).all()
    assert main([str(tmp_path / "b.npz"), "--size=8", "--scales=1", "--orientations=2", "--positions", "2", "2"]) == 0
    with np.load(tmp_path / "b.npz") as arrays:
        assert arrays["imgs"].shape == (24, 8, 8)
    assert main([str(tmp_path / "b.npz"), "--scales=0"]) == 2
    assert "scales" in capsys.readouterr().err
