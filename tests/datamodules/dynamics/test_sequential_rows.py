"""Pictures row by row: embedded ones, MNIST's files, npz."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tiny_files import write_idx, write_mnist_npz

from datamodules.dynamics.sequential_rows import SequentialRows
from framework.errors import UserError


def batch_of(**options):
    data = SequentialRows(**options)
    data.setup("fit")
    return data.train_set.batch


def test_the_embedded_digits():
    found = batch_of(probes=30)
    assert found["x"].shape == (1438, 8, 8)
    assert found["test_x"].shape == (359, 8, 8)
    assert torch.equal(found["probe"], found["x"][:30])
    table = load_digits()
    known = {
        (tuple((np.rint(image * 255 / 16)).ravel()), label)
        for image, label in zip(table.images, table.target, strict=True)
    }
    for name in ("", "test_"):
        pairs = zip(found[f"{name}x"], found[f"{name}y"], strict=True)
        assert all((tuple((255 * x).round().flatten().tolist()), int(y)) in known for x, y in pairs)
    assert found["y"].bincount().min() > 130
    assert found["y"][:200].bincount(minlength=10).min() > 5  # in no order


def test_mnists_files(tmp_path):
    write_idx(tmp_path / "idx")
    found = batch_of(path=str(tmp_path / "idx"))
    assert found["x"].ndim == 3
    assert 0 <= float(found["x"].min()) <= float(found["x"].max()) <= 1
    write_mnist_npz(tmp_path / "npz")
    whole, by_folder = batch_of(path=str(tmp_path / "npz" / "mnist.npz")), batch_of(path=str(tmp_path / "npz"))
    assert whole["x"].shape == (32, 28, 28)
    assert torch.equal(whole["x"], by_folder["x"])
    raw = np.load(tmp_path / "npz" / "mnist.npz")
    rows = {image.tobytes(): label for image, label in zip(raw["x_train"], raw["y_train"], strict=True)}
    for x, y in zip(whole["x"], whole["y"], strict=True):
        assert rows[(255 * x).round().to(torch.uint8).numpy().tobytes()] == int(y)


def test_what_it_refuses(tmp_path):
    for options, key in (({"source": "cifar10"}, "source"), ({"probes": 0}, "probes"), ({"passes": 0}, "passes")):
        with pytest.raises(UserError, match=f"^{key}:"):
            SequentialRows(**options)
    np.savez(tmp_path / "flat.npz", images=np.zeros((10, 6)), labels=np.arange(10))
    with pytest.raises(UserError, match="images of 6 pixels, which are not square"):
        batch_of(path=str(tmp_path / "flat.npz"))
    with pytest.raises(UserError, match="none"):
        batch_of(path=str(tmp_path / "none"))
