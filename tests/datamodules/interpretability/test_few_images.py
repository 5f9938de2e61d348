"""The first images of each source, normalised as asked."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tiny_files import idx_bytes, write_cifar, write_idx

from datamodules.interpretability.few_images import FewImages
from framework.errors import UserError


def whole(loader):
    (batch,) = loader
    return batch


def test_digits_are_standardised_by_the_mean_of_all_training_pixels():
    data = FewImages()
    data.setup()
    (z, w), (x, y) = (whole(loader) for loader in data.val_dataloader())
    assert x.shape == z.shape == (512, 64)
    assert x.dtype == torch.float64
    assert float(x.mean()) == pytest.approx(0, abs=1e-9)
    assert float(x.std(correction=0)) == pytest.approx(1)
    assert (data.inputs, data.num_classes, data.channels, data.image_size) == (64, 10, 1, 8)
    order = np.random.default_rng(0).permutation(1797)
    digits = load_digits()
    assert torch.equal(torch.cat([y, w]), torch.from_numpy(digits.target[order][:1024]))
    pixels = x * data.std[0] + data.mean[0]
    np.testing.assert_allclose(pixels, digits.data[order][:512] / 16, atol=0.002)
    assert [len(y) for _, y in data.train_dataloader()] == [128] * 40


def test_two_classes_of_mnist():
    data = FewImages("mnist5k", train=100, test=50, classes=[0, 1], mean=[0.1307], std=[0.3081], flatten=False)
    data.setup()
    x, y = whole(data.val_dataloader()[1])
    assert x.shape == (100, 1, 28, 28)
    assert set(y.tolist()) == {0, 1}
    assert float(x.min()) == pytest.approx(-0.1307 / 0.3081)
    other = FewImages("mnist5k", train=100, test=50, classes=[0, 1], split_seed=1)
    other.setup()
    assert not torch.equal(whole(other.val_dataloader()[1])[1], y)


def test_the_first_images_of_torchvisions_layout(tmp_path):
    (tmp_path / "MNIST").mkdir()
    content = write_idx(tmp_path / "MNIST" / "raw", size=(28, 28), classes=10)
    data = FewImages("idx", tmp_path, train=12, test=5, mean=[0.0], std=[1.0], dtype="float32")
    data.setup()
    (z, w), (x, y) = (whole(loader) for loader in data.val_dataloader())
    np.testing.assert_allclose(x.view(12, 28, 28), content["train-images-idx3-ubyte"][:12] / 255, rtol=1e-6)
    np.testing.assert_allclose(z.view(5, 28, 28), content["t10k-images-idx3-ubyte"][:5] / 255, rtol=1e-6)
    assert y.tolist() == content["train-labels-idx1-ubyte"][:12].tolist()
    assert w.tolist() == content["t10k-labels-idx1-ubyte"][:5].tolist()
    with pytest.raises(UserError, match=f"test: 30 images are wanted, and there are 20 in {tmp_path}"):
        FewImages("idx", tmp_path, train=12, test=30).setup()


def test_images_without_contrast_are_refused(tmp_path):
    for name, array in write_idx(tmp_path / "raw", size=(28, 28), classes=10, zipped=False).items():
        if "images" in name:
            (tmp_path / "raw" / name).write_bytes(idx_bytes(0 * array))
    with pytest.raises(UserError, match="train: all pixels of the 12 images are equal; set std"):
        FewImages("idx", tmp_path / "raw", train=12, test=5).setup()


def test_cifar(tmp_path):
    _, batches = write_cifar(tmp_path)
    data = FewImages("cifar10", tmp_path, train=25, test=10, flatten=False, mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.1])
    data.setup()
    x, _ = whole(data.val_dataloader()[1])
    pixels = np.concatenate([batches["data_batch_1"][b"data"], batches["data_batch_2"][b"data"]])[:25] / 255
    mean, std = (np.array(v).reshape(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1]))
    np.testing.assert_allclose(x, (pixels.reshape(25, 3, 32, 32) - mean) / std)
