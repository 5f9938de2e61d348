"""Faces and other pictures."""

import numpy as np
import pytest
import torch

from datamodules.interpretability.faces import Faces
from framework.errors import UserError


def test_the_shipped_pictures_are_as_o_net_expects_them():
    data = Faces()
    data.setup("test")
    x, y = data.test_set.tensors
    assert x.shape == (200, 3, 48, 48)
    assert y.tolist() == [1] * 100 + [0] * 100
    assert float(x.min()) >= -127.5 / 128
    assert float(x.max()) <= 127.5 / 128
    assert torch.equal(x[:, 0], x[:, 2])
    assert data.train_set is None
    pixels = x * torch.tensor(data.std).view(-1, 1, 1) + torch.tensor(data.mean).view(-1, 1, 1)
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1 + 1e-6
    half = Faces(test_fraction=0.5)
    half.setup("fit")
    assert len(half.train_set) == len(half.test_set) == 100
    assert int(half.train_set.tensors[1].sum()) == 50


def test_a_file_of_bytes_or_of_numbers_up_to_one(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 10, 10)).astype(np.uint8)
    y = np.arange(6) % 2
    np.savez(tmp_path / "faces.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x=x / 255, y=y)
    first, second = Faces(tmp_path, image_size=10), Faces(tmp_path / "b.npz", image_size=10)
    torch.testing.assert_close(first.pictures()[0], second.pictures()[0])
    np.savez(tmp_path / "dark.npz", x=x // 255, y=y)
    assert float(Faces(tmp_path / "dark.npz", image_size=10).pictures()[0].max()) <= -126.5 / 128
    np.savez(tmp_path / "c.npz", x=x - 300.0, y=y)
    with pytest.raises(UserError, match="0 to 1, or 0 to 255 expected"):
        Faces(tmp_path / "c.npz").setup("test")
    np.savez(tmp_path / "d.npz", x=x, y=y + 1)
    with pytest.raises(UserError, match="y has class 2"):
        Faces(tmp_path / "d.npz").setup("test")
    with pytest.raises(UserError, match="test_fraction"):
        Faces(test_fraction=0.0)
