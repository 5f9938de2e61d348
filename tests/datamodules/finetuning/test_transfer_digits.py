"""Digits to transfer between: parts, classes, the shifted copy, a user's file, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.finetuning.transfer_digits import TransferDigits, digits, shifted
from framework.errors import UserError


def test_the_parts():
    data = TransferDigits(num_classes=5, inputs=64)
    data.setup("fit")
    x, y = digits()
    assert len(data.source["x"]) == int((y >= 5).sum())
    assert data.source["y"].unique().tolist() == [0, 1, 2, 3, 4]
    parts = [data.train_set, data.val_set, data.test_set]
    assert [len(part) for part in parts] == [150, 100, int((y < 5).sum()) - 250]
    assert torch.bincount(data.train_set.tensors[1]).tolist() == [30] * 5
    rows = torch.cat([part.tensors[0] for part in parts]).flatten(1)
    assert len(rows.unique(dim=0)) == len(torch.as_tensor(x[y < 5]).flatten(1).unique(dim=0))
    for images, labels in (part.tensors for part in parts):
        for image, label in zip(images[:5], labels[:5], strict=True):
            found = np.flatnonzero((x == image.numpy()).all((1, 2)))
            assert label in y[found]
    other = TransferDigits(split_seed=1)
    other.setup()
    assert not torch.equal(other.train_set.tensors[0], data.train_set.tensors[0])
    again = TransferDigits()
    again.setup()
    assert torch.equal(again.shifted_set.tensors[0], data.shifted_set.tensors[0])
    loaders = data.test_dataloader()
    assert [sum(len(y) for _, y in loader) for loader in loaders] == [len(data.test_set)] * 2
    assert len(loaders) == len(data.test_names)


def test_the_shifted_copy():
    data = TransferDigits(noise=0.0)
    data.setup()
    x, moved = data.test_set.tensors[0], data.shifted_set.tensors[0]
    assert torch.equal(moved[..., 1:], x[..., :-1])
    assert torch.equal(moved[..., 0], x[..., -1])
    flat = torch.full((50, 8, 8), 0.5)
    noisy = shifted(flat, 0.1, torch.Generator().manual_seed(0))
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05)
    wild = shifted(flat, 9.0, torch.Generator().manual_seed(0))
    assert wild.min() == 0
    assert wild.max() == 1


def test_a_users_file(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    np.savez(tmp_path / "own.npz", x=rng.random((120, 3, 2)), y=y)
    options = {"source_classes": [3, 0], "target_classes": [2, 1], "train_rows": 10, "val_rows": 6}
    data = TransferDigits(str(tmp_path / "own.npz"), inputs=6, num_classes=2, **options)
    data.setup()
    assert len(data.source["y"]) == 60
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [10, 6, 44]
    cases = {
        "one.npz": ({"x": np.zeros((3, 2))}, r"one.npz: lacks y \(it has x \(3, 2\)\); expected x \(N, H, W\)"),
        "far.npz": ({"x": 9 * np.ones((4, 2, 2)), "y": y[:4]}, "x has values from 9 to 9"),
        "few.npz": ({"x": np.zeros((8, 2, 2)), "y": y[:8]}, "leave no test of the 4 examples"),
        "lack.npz": ({"x": np.zeros((8, 2, 2)), "y": 0 * y[:8]}, "has no example of class 3"),
    }
    for name, (arrays, message) in cases.items():
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(UserError, match=message):
            TransferDigits(str(tmp_path / name), **options).setup()
    with pytest.raises(UserError, match=r"nowhere.npz: not found; expected"):
        TransferDigits(str(tmp_path / "nowhere.npz")).setup()


def test_bad_settings():
    for options, message in (
        ({"target_classes": [0, 5]}, "none in both"),
        ({"target_classes": [0]}, "two or more"),
        ({"train_rows": 4}, "train_rows: 4 is not accepted; at least 5"),
        ({"noise": -1.0}, "noise: -1.0 is not accepted"),
        ({"num_classes": 4}, "num_classes: 4 declared, target_classes has 5"),
    ):
        with pytest.raises(UserError, match=message):
            TransferDigits(**options)
    with pytest.raises(UserError, match="inputs: 63 declared, an image has 64 pixels"):
        TransferDigits(inputs=63).setup()
