"""Folders of pictures as users have them: names of parts, classes, links and hidden files."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_files import write_images

from datamodules.images.class_folders import ClassFolders, find_parts
from datamodules.vision.image_folder import ImageFolderData
from framework.errors import UserError


def data_of(path, **settings):
    data = ImageFolderData(str(path), **{"image_size": 8, "augment": "none", **settings})
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("Training", "Testing"), {"train": "Training", "test": "Testing"}),
        (("Train", "Val", "Test"), {"train": "Train", "val": "Val", "test": "Test"}),
        (("train", "valid"), {"train": "train", "val": "valid"}),
        (("train", "validation", "test"), {"train": "train", "val": "validation", "test": "test"}),
        (("TRAIN", "dev"), {"train": "TRAIN", "val": "dev"}),
        (("seg_train", "seg_test"), {"train": "seg_train", "test": "seg_test"}),
        (("cat", "dog"), {}),
    ],
)
def test_parts_by_their_names(tmp_path, names, found):
    for name in names:
        write_images(tmp_path / name, n=3)
    assert {part: folder.name for part, folder in find_parts(tmp_path)[1].items()} == found


def test_the_parts_are_those_of_the_folders(tmp_path):
    for name, n in (("Training", 6), ("valid", 3), ("Testing", 2)):
        write_images(tmp_path / name, n=n)
    data = data_of(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [12, 6, 4]


def test_what_was_taken_is_printed(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("datamodules.vision.image_folder.rank_zero_info", lines.append)
    write_images(tmp_path / "data" / "train", n=6)
    write_images(tmp_path / "elsewhere", classes=("a",), n=4)
    (tmp_path / "data" / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "data" / "train" / "cat" / "._0.png").write_bytes(b"\0\5")
    (tmp_path / "data" / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "data" / "train" / "dog" / "notes.txt").touch()
    data = data_of(tmp_path / "data")
    assert data.class_names == ("cat", "dog")
    assert len(data.train_set) + len(data.val_set) == 16
    assert "14 / 2 / 2 pictures to train, validate and test (train), 2 classes" in lines[0]
    assert "2 hidden left out, 1 of other kinds left out, 1 linked folders followed" in lines[0]


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, classes=("car", "ship", "train"), n=10)
    assert find_parts(tmp_path) == (tmp_path, {})
    assert data_of(tmp_path).class_names == ("car", "ship", "train")
    (tmp_path / "flat").mkdir()
    write_images(tmp_path / "flat", classes=("train", "test"), n=2)  # parts without classes, not two classes
    with pytest.raises(UserError, match=r"flat/train: has no folders; expected one for each class"):
        data_of(tmp_path / "flat")


def test_two_folders_of_one_part(tmp_path):
    for name in ("train", "val", "valid"):
        write_images(tmp_path / name, n=2)
    with pytest.raises(UserError, match="val and valid are both the val part; keep one of them"):
        find_parts(tmp_path)


def test_classes_that_lose_their_only_picture_are_named(tmp_path):
    names = [f"class_{i}" for i in range(5)]
    write_images(tmp_path, classes=names, n=1)
    with pytest.raises(
        UserError, match=r"no picture is left to train on of 5 of 5 classes: 'class_0' \(of 1\), 'class_1'"
    ):
        data_of(tmp_path)
    write_images(tmp_path / "parts" / "train", classes=names, n=1)
    write_images(tmp_path / "parts" / "train", classes=("more",), n=30)
    with pytest.raises(UserError, match=r"no picture is left to train on of \d of 6 classes: 'class_\d' \(of 1\)"):
        data_of(tmp_path / "parts", val_fraction=0.5)


def test_classes_in_two_unicode_forms(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "été"), unicodedata.normalize("NFD", "été")
    write_images(tmp_path / "one" / "train", classes=("a", composed), n=3)
    write_images(tmp_path / "one" / "val", classes=("a", decomposed), n=2)
    data = data_of(tmp_path / "one")  # a copy that macOS made of one part
    assert data.class_names == ("a", composed)
    assert data.val_set.labels.tolist() == [0, 0, 1, 1]
    write_images(tmp_path / "two", classes=(composed, decomposed), n=3)
    with pytest.raises(UserError, match="two folders named 'été', which differ only in their Unicode form"):
        data_of(tmp_path / "two")


def test_the_files_are_in_the_order_of_their_classes(tmp_path):
    write_images(tmp_path, classes=("b", "a"), n=2)
    found = ClassFolders(tmp_path)
    assert found.names == ("a", "b")
    assert [f"{file.parent.name}/{file.name}" for file in found.files] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.labels.dtype == np.int64
    assert ClassFolders(tmp_path, ("b", "a", "c")).labels.tolist() == [1, 1, 0, 0]


def test_sixteen_bits_are_not_white(tmp_path):
    """Public report: training on 16-bit PNGs ran at chance."""
    for name, level in (("dark", 0.2), ("light", 0.8)):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(np.full((8, 8), level * 65_535).astype(np.uint16)).save(tmp_path / name / f"{i}.png")
    data = data_of(tmp_path, channels=1, mean=(0.0,), std=(1.0,))
    x, y = (torch.stack(part) for part in zip(*(data.train_set[i] for i in range(len(data.train_set))), strict=True))
    assert torch.allclose(x[y == 0], torch.tensor(0.2), atol=0.01)
    assert torch.allclose(x[y == 1], torch.tensor(0.8), atol=0.01)


def test_parts_do_not_mix(tmp_path):
    for name, n in (("train", 4), ("val", 3), ("test", 2)):
        write_images(tmp_path / name, n=n)
    data = data_of(tmp_path)
    for part, name in ((data.train_set, "train"), (data.val_set, "val"), (data.test_set, "test")):
        assert {file.parent.parent.name for file in part.items} == {name}
        assert len(part.items) == len(part.labels)


def test_the_folder_of_an_archive_is_entered(tmp_path):
    for part, n in (("train", 4), ("test", 2)):
        write_images(tmp_path / "a" / "chest" / part, n=n)
        write_images(tmp_path / "b" / f"seg_{part}" / f"seg_{part}", n=n)
    for name in ("a", "b"):
        data = data_of(tmp_path / name, val_fraction=0.5)
        assert data.class_names == ("cat", "dog")
        assert (len(data.train_set), len(data.test_set)) == (4, 4)
    write_images(tmp_path / "c", classes=("cat",), n=4)
    with pytest.raises(UserError, match="c: has one class, 'cat'; a folder for each of several is expected"):
        data_of(tmp_path / "c")
