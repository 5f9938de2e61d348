"""ImageFolder: its layouts, its splits, and what is wrong with a folder said by name."""

import pytest
import torch
from tiny_files import write_images

from datamodules.vision.image_folder import ImageFolderData
from framework.errors import UserError


def make(path, **settings):
    return ImageFolderData(path=None if path is None else str(path), **{"image_size": 16, "batch_size": 4, **settings})


def test_three_folders(tmp_path):
    for part, n in (("train", 6), ("val", 3), ("test", 2)):
        write_images(tmp_path / part, n=n)
    data = make(tmp_path, num_classes=2)
    data.setup()
    assert data.class_names == ("cat", "dog")
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [12, 6, 4]
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, y.dtype) == ((4, 3, 16, 16), torch.float32, torch.int64)
    assert sum(len(y) for _, y in data.test_dataloader()) == 4


def test_without_test_the_validation_set_serves(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", n=2)
    data = make(tmp_path)
    data.setup()
    assert data.test_set is data.val_set
    assert len(data.train_set) == 20


def test_one_folder_is_split_the_same_each_time(tmp_path):
    write_images(tmp_path)
    parts = []
    for seed in (0, 0, 1):
        data = make(tmp_path, split_seed=seed, val_fraction=0.25)
        data.setup()
        parts.append([s.items for s in (data.train_set, data.val_set, data.test_set)])
        assert [len(p) for p in parts[-1]] == [12, 4, 4]
        assert data.test_set.labels.tolist() == [0, 0, 1, 1]
    assert parts[0] == parts[1] != parts[2]
    assert len({file for part in parts[0] for file in part}) == 20


def test_without_a_path_the_digits(tmp_path):
    data = make(None, channels=1, augment="none")
    data.setup()
    assert data.num_classes == 10
    x, _ = data.train_set[0]
    assert x.shape == (1, 16, 16)
    assert len(data.train_set) + len(data.val_set) + len(data.test_set) == 1797


@pytest.mark.parametrize("augment", ["none", "crop_flip", "randaugment", "trivialaugment"])
def test_augmentation_follows_torchs_generator(tmp_path, augment):
    write_images(tmp_path, n=5, suffix="jpg")
    data = make(tmp_path, augment=augment, val_fraction=0.3)
    data.setup()
    torch.manual_seed(0)
    first = data.train_set[0][0]
    torch.manual_seed(0)
    assert torch.equal(first, data.train_set[0][0])
    assert torch.equal(data.val_set[0][0], data.val_set[0][0])
    assert torch.equal(first, data.train_set[0][0]) == (augment == "none")


def test_broken_image(tmp_path):
    write_images(tmp_path)
    for i in range(10):
        file = tmp_path / "cat" / f"{i}.png"
        file.write_bytes(file.read_bytes()[:200])
    data = make(tmp_path)
    data.setup()
    with pytest.raises(UserError, match=r"cat/\d.png: cannot be decoded"):
        for _ in data.train_dataloader():
            pass


def test_broken_folders(tmp_path):
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        make(tmp_path / "nowhere").setup()
    with pytest.raises(UserError, match="has no folders"):
        make(tmp_path).setup()
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", classes=("cat", "dig"), n=2)
    with pytest.raises(UserError, match=r"val: class 'dig' is not among the training classes; nearest: 'dog'"):
        make(tmp_path).setup()
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="empty: has no image"):
        make(tmp_path).setup()
    write_images(tmp_path / "other" / "val")
    with pytest.raises(UserError, match="train: not found, though there is"):
        make(tmp_path / "other").setup()
    write_images(tmp_path / "whole")
    with pytest.raises(UserError, match="num_classes: 3 declared"):
        make(tmp_path / "whole", num_classes=3).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "randaug"}, "did you mean 'randaugment'"),
        ({"channels": 2}, "channels: 2"),
        ({"mean": (0.5,)}, "mean: 1 values for 3 channels"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"crop_ratio": 1.5}, "crop_ratio"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        make(None, **settings)
