"""Pairs of pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_files import write_pairs

from datamodules.interpretability.paired_pictures import PairedPictures, edges
from framework.errors import UserError


def test_edges_of_a_step_are_one_where_it_is_and_those_of_a_plane_none():
    x = torch.zeros(1, 1, 6, 6)
    x[..., 3:] = 1
    found = edges(x)
    assert torch.equal(found[0, 0, 2], torch.tensor([0.0, 0, 1, 1, 0, 0]))
    assert float(edges(torch.full((1, 3, 5, 5), 0.7)).abs().max()) < 1e-6


def test_without_a_path_photographs_and_their_edges():
    data = PairedPictures(size=16, patches=2)
    data.setup("fit")
    a, b = data.train_set.__getitems__([0, 3, 7])
    assert a.shape == b.shape == (3, 1, 16, 16)
    torch.testing.assert_close(a[..., 1:-1, 1:-1], edges(b)[..., 1:-1, 1:-1], atol=1 / 255, rtol=0)
    assert len(data.val_set) == len(data.test_set) == 2
    with pytest.raises(UserError, match="in_channels: 3 is not accepted without a path"):
        PairedPictures(in_channels=3)


def test_a_folder_of_pairs_keeps_them_together(tmp_path):
    write_pairs(tmp_path / "pairs")
    for file in (tmp_path / "pairs" / "A").iterdir():
        negative = 255 - np.asarray(Image.open(file))
        Image.fromarray(negative).save(tmp_path / "pairs" / "B" / file.name)
    data = PairedPictures(tmp_path / "pairs", channels=3, size=12, patches=5)
    data.setup("fit")
    a, b = data.train_set.__getitems__(list(range(10)))
    torch.testing.assert_close(1 - a.expand(-1, 3, -1, -1), b)
    Image.new("L", (40, 40)).save(tmp_path / "pairs" / "B" / "1.png")
    with pytest.raises(UserError, match=r"1.png: 44x40 and 40x40 pixels in A and B"):
        PairedPictures(tmp_path / "pairs", size=12).setup("fit")
    (tmp_path / "pairs" / "B" / "1.png").unlink()
    with pytest.raises(UserError, match="B: has no picture '1'"):
        PairedPictures(tmp_path / "pairs", size=12).setup("fit")
