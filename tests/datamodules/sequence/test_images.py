"""Images as sequences: the order of pixels, pooling, permutation, colours."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch

from datamodules.images.embedded import load_digits
from datamodules.images.labelled import stratified_split
from datamodules.sequence.images import SequentialImages
from framework.errors import UserError


def whole(dataset):
    return dataset.__getitems__(range(len(dataset)))


def test_digits_row_by_row():
    data = SequentialImages(source="digits", num_classes=10, d_input=1)
    assert (data.length, data.d_input, data.num_classes) == (64, 1, 10)
    data.setup()
    x, y = whole(data.test_set)
    assert (x.shape, x.dtype, y.dtype) == ((359, 64, 1), torch.float32, torch.int64)
    digits = load_digits()
    rows = stratified_split(digits.labels, 0.2, 0)[1]
    raw = torch.from_numpy(digits.images[rows].reshape(-1, 64, 1)).float()
    scale = data.test_set.transform
    assert torch.allclose(x * scale.std + scale.mean, raw, atol=1e-3)
    x, _ = whole(data.train_set)
    assert abs(x.mean()) < 1e-5
    assert abs(x.std() - 1) < 1e-4
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (50, 64, 1)


def test_pool_averages():
    plain, pooled = (SequentialImages(source="digits", pool=k) for k in (1, 2))
    for data in (plain, pooled):
        data.setup()
    fine = plain.train_set.tensors[0][:, :, 0].reshape(-1, 4, 2, 4, 2).float().mean((2, 4)).flatten(1)
    assert torch.equal(fine, pooled.train_set.tensors[0][:, :, 0])
    assert pooled.length == 16


def test_permutation_is_one_for_all_and_follows_its_seed():
    plain, one, again, other = (
        SequentialImages(source="digits", permute=permute, permute_seed=seed)
        for permute, seed in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    for data in (plain, one, again, other):
        data.setup()
    a, b, c, d = (whole(data.test_set)[0] for data in (plain, one, again, other))
    order = torch.from_numpy(np.random.default_rng(0).permutation(64))
    assert torch.equal(a[:, order], b)
    assert torch.equal(b, c)
    assert not torch.equal(b, d)


def test_cifar_in_colour_and_grey(tmp_path):
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {b"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), b"labels": list(range(10))}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
        last = batch[b"data"]
    colour = SequentialImages(source="cifar10", path=str(tmp_path), d_input=3, val_fraction=0.2)
    grey = SequentialImages(source="cifar10", path=str(tmp_path), grey=True, val_fraction=0.2)
    for data in (colour, grey):
        data.setup()
    stored = colour.test_set.tensors[0]
    assert stored.shape == (10, 1024, 3)
    assert np.array_equal(stored[4, 33].numpy(), last[4].reshape(3, 32, 32)[:, 1, 1])
    luminance = stored.float() @ torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(luminance, grey.test_set.tensors[0][..., 0], atol=1e-3)
    assert grey.d_input == 1


def test_idx_takes_its_length_from_the_file(tmp_path):
    for prefix in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (20, 4, 6), dtype=np.uint8)
        labels = (np.arange(20) % 2).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    data = SequentialImages(source="idx", path=str(tmp_path))
    data.setup()
    assert (data.length, data.num_classes) == (24, 2)
    with pytest.raises(UserError, match="pool: 4 does not divide the images' 4x6"):
        SequentialImages(source="idx", path=str(tmp_path), pool=4).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "digit"}, "did you mean 'digits'"),
        ({"source": "digits", "pool": 3}, "pool: 3 is not accepted; a divisor of 8"),
        ({"source": "digits", "d_input": 3}, "d_input: 3 declared, source 'digits' has 1"),
        ({"source": "cifar10"}, "path: source 'cifar10' needs one"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        SequentialImages(**settings)
