"""FirstSamples: the first n, tiled; sources, noise, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_files import write_cifar, write_idx, write_mnist_npz

from datamodules.interpretability.first_samples import FirstSamples, permute_labels, replace_by_noise
from framework.errors import UserError


def ready(**settings):
    data = FirstSamples(**settings)
    data.setup("fit")
    return data


def saved(path, x):
    np.savez(path, x_train=x, y_train=np.arange(len(x)) % 2, x_test=x, y_test=np.arange(len(x)) % 2)
    return path


def test_the_first_n_are_tiled_to_as_many_updates():
    whole = ready(source="digits")
    x, y = whole.train_set.tensors
    assert (len(whole.train_set), len(whole.val_set)) == (1438, 359)
    assert whole.val_set is whole.test_set
    assert (whole.inputs, whole.num_classes, whole.channels, whole.image_size) == (64, 10, 1, 8)
    assert x.shape[1:] == (1, 8, 8)
    assert float(x.min()) == 0
    assert float(x.max()) == 1
    assert y[:50].unique().numel() > 5  # not sorted by class
    for n in (10, 100, 1438):
        few = ready(source="digits", samples=n)
        assert len(few.train_set) == 1438 // n * n
        own_x, own_y = few.examples("train").tensors
        assert torch.equal(own_x, x[:n])
        assert torch.equal(own_y, y[:n])
        assert torch.equal(few.train_set.tensors[0][n : 2 * n], x[n:] if n == 1438 else x[:n])
        assert torch.equal(few.examples("test").tensors[0], whole.test_set.tensors[0])
    assert len(ready(source="digits", samples=10, tile=False).train_set) == 10
    other = ready(source="digits", seed=1)
    assert not torch.equal(other.train_set.tensors[1][:50], y[:50])


def test_mnist_of_a_package():
    data = ready(source="mnist5k")
    assert (len(data.train_set), len(data.test_set), data.inputs) == (4000, 1000, 784)
    assert torch.bincount(data.train_set.tensors[1]).tolist() == [400] * 10
    batch = next(iter(data.train_dataloader()))
    assert batch[0].shape == (64, 1, 28, 28)
    assert batch[0].dtype == torch.float32


@pytest.mark.parametrize(("source", "inputs", "classes"), [("breast_cancer", 30, 2), ("wine", 13, 3)])
def test_tables_are_standardised(source, inputs, classes):
    data = ready(source=source)
    x = data.train_set.tensors[0]
    assert (data.inputs, data.num_classes, data.channels) == (inputs, classes, None)
    torch.testing.assert_close(x.mean(0), torch.zeros(inputs), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(inputs), atol=1e-4, rtol=0)


def test_files_in_their_own_order(tmp_path):
    write_mnist_npz(tmp_path)
    arrays = np.load(tmp_path / "mnist.npz")
    for path in (tmp_path, tmp_path / "mnist.npz"):
        data = ready(source="npz", path=path, samples=7, val_fraction=0.2, num_classes=10)
        x, y = data.examples("train").tensors
        assert torch.equal(x, torch.from_numpy(arrays["x_train"][:7, None] / np.float32(255)))
        assert y.tolist() == arrays["y_train"][:7].tolist()
        assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (28, 8, len(arrays["y_test"]))
        assert data.val_set.tensors[1].tolist() == arrays["y_train"][32:].tolist()
    table = tmp_path / "table.npz"
    np.savez(table, x_train=np.eye(6), y_train=np.arange(6) % 2, x_test=np.eye(6)[:2], y_test=np.zeros(2, int))
    assert torch.equal(ready(source="npz", path=table).train_set.tensors[0], torch.eye(6))
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    last = ready(source="npz", path=saved(tmp_path / "last.npz", images))
    first = ready(source="npz", path=saved(tmp_path / "first.npz", np.moveaxis(images, 3, 1)))
    assert (last.channels, last.inputs) == (3, 60)
    assert torch.equal(last.train_set.tensors[0], first.train_set.tensors[0])
    assert torch.equal(first.train_set.tensors[0][2, 1], torch.from_numpy(images[2, :, :, 1] / np.float32(255)))
    write_idx(tmp_path / "idx")
    assert ready(source="idx", path=tmp_path / "idx").channels == 1
    write_cifar(tmp_path / "cifar")
    assert ready(source="cifar10", path=tmp_path / "cifar").inputs == 3072


def test_noise_changes_a_fraction_of_the_training_examples_alone():
    clean = ready(source="digits", samples=300)
    labels = ready(source="digits", samples=300, label_noise=0.5)
    y, noisy = (data.examples("train").tensors[1] for data in (clean, labels))
    assert torch.equal(torch.bincount(y), torch.bincount(noisy))
    assert 0.35 < float((y != noisy).float().mean()) <= 0.5
    assert torch.equal(labels.train_set.tensors[1][300:600], noisy)
    x, replaced = clean.examples("train").tensors[0], ready(source="digits", samples=300, instance_noise=0.3)
    changed = (x != replaced.examples("train").tensors[0]).flatten(1).all(1)
    assert int((x != replaced.examples("train").tensors[0]).flatten(1).any(1).sum()) == 90
    assert int(changed.sum()) == 90
    noise = replaced.examples("train").tensors[0][changed]
    assert 0.45 < float(noise.mean()) < 0.55
    assert 0 <= float(noise.min()) < 0.01
    for data in (labels, replaced):
        assert all(torch.equal(a, b) for a, b in zip(data.test_set.tensors, clean.test_set.tensors, strict=True))
    assert torch.equal(permute_labels(y, 0.5, 0), noisy)
    assert torch.equal(permute_labels(y, 0.0, 0), y)
    assert torch.equal(replace_by_noise(x, 0.0, 0), x)


def test_what_is_refused(tmp_path):
    for settings, message in (
        ({"source": "mnist"}, "is not one of mnist5k"),
        ({"source": "idx"}, "path: source 'idx' needs one"),
        ({"source": "wine", "path": "data"}, "ships with a package"),
        ({"samples": 0}, "samples: 0"),
        ({"label_noise": 1.1}, "label_noise: 1.1"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0"),
    ):
        with pytest.raises(UserError, match=message):
            FirstSamples(**settings)
    with pytest.raises(UserError, match=r"samples: 2000 is not accepted; at most 1438 \(the training examples\)"):
        ready(source="digits", samples=2000)
    with pytest.raises(UserError, match="num_classes: 4 declared"):
        ready(source="digits", num_classes=4)
    with pytest.raises(UserError, match="leaves a part empty"):
        ready(source="wine", val_fraction=0.001)
    path = tmp_path / "a.npz"
    good = {"x_train": np.eye(4), "y_train": np.arange(4), "x_test": np.eye(4), "y_test": np.arange(4)}
    for change, message in (
        ({"x_test": np.ones((4, 5))}, "x_train and x_test have the shapes"),
        ({"y_test": np.arange(4) + 1}, "y_test has class 4, y_train ends at 3"),
        ({"y_train": np.arange(3)}, "y_train"),
        ({"x_train": np.full((4, 4), np.nan)}, "x_train"),
        ({"x_test": np.full((4, 4), -1e39)}, "x_test in float32"),
    ):
        np.savez(path, **{**good, **change})
        with pytest.raises(UserError, match=message):
            ready(source="npz", path=path)
