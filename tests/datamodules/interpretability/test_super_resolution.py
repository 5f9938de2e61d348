"""Pieces at two resolutions."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.interpretability.super_resolution import SuperResolutionPatches, shrink
from framework.errors import UserError


def test_the_shipped_photographs_are_cut_by_seed_and_shrunk():
    data = SuperResolutionPatches(size=24, scale=3, patches=4)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (24, 4, 4)
    low, high = data.train_set.__getitems__([0, 5])
    assert low.shape == (2, 1, 8, 8)
    assert high.shape == (2, 1, 24, 24)
    assert 0 <= float(high.min()) < float(high.max()) <= 1
    torch.testing.assert_close(low, shrink(high, 3))
    torch.testing.assert_close(low.mean((2, 3)), high.mean((2, 3)), atol=0.02, rtol=0)
    again = SuperResolutionPatches(size=24, scale=3, patches=4)
    again.setup("fit")
    assert torch.equal(again.train_set.pieces, data.train_set.pieces)
    other = SuperResolutionPatches(size=24, scale=3, patches=4, split_seed=1)
    other.setup("fit")
    assert not torch.equal(other.train_set.pieces, data.train_set.pieces)


def test_pieces_as_large_as_the_scale_become_one_pixel():
    assert shrink(torch.rand(2, 1, 49, 49), 49).shape == (2, 1, 1, 1)
    with pytest.raises(UserError, match="split_seed: -1"):
        SuperResolutionPatches(split_seed=-1)


def test_a_folder_and_a_folder_for_validation(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("high", 4), ("valid", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    data = SuperResolutionPatches(tmp_path / "high", tmp_path / "valid", channels=3, size=8, patches=3)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set)) == (12, 6)
    assert data.test_set is data.val_set
    assert data.train_set[0][1].shape == (3, 8, 8)
    alone = SuperResolutionPatches(tmp_path / "high", size=8, patches=3)
    alone.setup("fit")
    assert (len(alone.train_set), len(alone.val_set), len(alone.test_set)) == (6, 3, 3)
    with pytest.raises(UserError, match="2 pictures are too few; 1 to validate, 1 to test, and one to train on"):
        SuperResolutionPatches(tmp_path / "valid", size=8).setup("fit")
    with pytest.raises(UserError, match=r"png: 30x20 pixels; at least 24 each way are needed"):
        SuperResolutionPatches(tmp_path / "high", size=24).setup("fit")
    with pytest.raises(UserError, match="nowhere is not there"):
        SuperResolutionPatches(tmp_path / "nowhere").setup("fit")
    with pytest.raises(UserError, match=r"size: 25 is not accepted; a multiple of 2 \(scale\)"):
        SuperResolutionPatches(size=25)
