"""Digits with attributes, and the public images beside them."""

import numpy as np
import pytest
import torch
from tiny_files import write_idx

from datamodules.images.embedded import load_mnist5k
from datamodules.robustness.digit_attributes import ATTRIBUTES, DigitAttributes
from datamodules.robustness.public_images import PICTURES, public_images
from framework.errors import UserError


def test_labels_are_attributes_of_the_digits():
    data = DigitAttributes(public="none")
    data.setup("fit")
    assert (len(data.train_set), len(data.test_set)) == (4000, 1000)
    assert data.val_set is data.test_set
    images = {image.tobytes(): int(label) for image, label in zip(*_mnist(), strict=True)}
    raw, targets = data.test_set.tensors
    for image, own in zip(raw.numpy()[:200], targets[:200].tolist(), strict=True):
        digit = images[image.tobytes()]
        assert own == [int(digit in digits) for digits in ATTRIBUTES.values()]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (128, 1, 28, 28)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert y.dtype == torch.int64
    assert data.source == {}


def _mnist():
    found = load_mnist5k()
    return found.images, found.labels


def test_validation_can_be_held_out():
    data = DigitAttributes(public="none", val_fraction=0.25)
    data.setup("fit")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [3000, 1000, 1000]


def test_idx_of_ten_digits(tmp_path):
    write_idx(tmp_path / "ten", size=(28, 28), classes=10)
    data = DigitAttributes(tmp_path / "ten", public="idx", public_path=tmp_path / "ten", public_images=30)
    data.setup("fit")
    assert len(data.train_set) == 40
    assert data.source["x"].shape == (30, 1, 28, 28)
    write_idx(tmp_path / "four", size=(28, 28), classes=4)
    with pytest.raises(UserError, match=r"four: 4 classes, ten digits are expected"):
        DigitAttributes(tmp_path / "four", public="none").setup("fit")


def test_pieces_are_of_their_pictures():
    found = public_images("photographs", None, 8 * len(PICTURES), 28)
    assert found["x"].shape == (8 * len(PICTURES), 1, 28, 28)
    assert found["y"].bincount().tolist() == [8] * len(PICTURES)
    again = public_images("photographs", None, 8 * len(PICTURES), 28)
    assert torch.equal(found["x"], again["x"])
    assert not torch.equal(found["x"], public_images("photographs", None, 8 * len(PICTURES), 28, seed=1)["x"])
    assert float(found["x"].min()) >= 0
    assert float(found["x"].max()) <= 1


def test_other_digits_are_enlarged():
    found = public_images("digits", None, 5000, 28)
    assert found["x"].shape == (1797, 1, 28, 28)
    assert np.array_equal(np.unique(found["y"]), np.arange(10))


def test_settings_that_are_refused(tmp_path):
    with pytest.raises(UserError, match="public_path: None is not accepted with public idx; idx needs a folder"):
        DigitAttributes(public="idx")
    with pytest.raises(UserError, match="public_path: 'x' is not accepted with public photographs"):
        DigitAttributes(public_path="x")
