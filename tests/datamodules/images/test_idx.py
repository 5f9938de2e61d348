"""IDX files under the names that MNIST's copies have."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from tiny_files import idx_bytes, write_idx

from datamodules.images.idx import find_idx, read_idx_folder
from framework.errors import UserError


def rename(folder, change):
    for file in list(folder.iterdir()):
        target = folder / change(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace("-idx", ".idx"),  # Kaggle
        lambda name: name.replace("-idx", ".idx").removesuffix(".gz"),
        lambda name: f"emnist-letters-{name.replace('t10k', 'test')}",  # EMNIST
        lambda name: f"MNIST/raw/{name}",  # torchvision
        lambda name: f"{name.removesuffix('.gz')}/{name.removesuffix('.gz')}",  # Kaggle's archive unpacked
        lambda name: name.replace("t10k", "test").upper(),
    ],
)
def test_names_that_are_known(tmp_path, change):
    content = write_idx(tmp_path, zipped=True)
    rename(tmp_path, change)
    for file in tmp_path.rglob("*"):
        if file.is_file() and not file.name.lower().endswith(".gz"):
            file.write_bytes(gzip.decompress(file.read_bytes()))
    train, test = read_idx_folder(tmp_path)
    assert np.array_equal(train.images[:, 0], content["train-images-idx3-ubyte"])
    assert np.array_equal(test.labels, content["t10k-labels-idx1-ubyte"])


def test_a_plain_file_beside_its_gz_and_hidden_files(tmp_path):
    write_idx(tmp_path, zipped=True)
    plain = np.zeros((40, 6, 6), np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(plain))
    (tmp_path / "._train-images-idx3-ubyte").write_bytes(b"\0\5")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "t10k-labels-idx1-ubyte").write_bytes(b"\0\5")
    assert not read_idx_folder(tmp_path)[0].images.any()


def test_several_sets_in_one_folder(tmp_path):
    for name in ("digits", "letters"):
        write_idx(tmp_path / name, classes=2 if name == "digits" else 4)
        rename(tmp_path / name, lambda file, name=name: f"../emnist-{name}-{file.replace('t10k', 'test')}")
        (tmp_path / name).rmdir()
    with pytest.raises(
        UserError, match=r"holds several sets; give one as the path: .*/emnist-digits, or emnist-letters"
    ):
        find_idx(tmp_path, "train", "images")
    assert len(read_idx_folder(tmp_path / "emnist-letters")[0].class_names) == 4
    assert len(read_idx_folder(tmp_path / "emnist-digits")[0].class_names) == 2
    with pytest.raises(UserError, match=r"emnist-balanced: no train images in IDX found"):
        read_idx_folder(tmp_path / "emnist-balanced")


def test_the_same_names_in_two_folders(tmp_path):
    for name in ("MNIST", "FashionMNIST"):
        (tmp_path / name).mkdir()
        write_idx(tmp_path / name / "raw")
    with pytest.raises(UserError, match="give the folder of one of them"):
        find_idx(tmp_path, "train", "images")
    assert find_idx(tmp_path / "MNIST", "test", "labels").name == "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("moved", ["t10k-*", "train-labels*"])
def test_files_of_two_sets_are_not_mixed(tmp_path, moved):
    write_idx(tmp_path / "one")
    (tmp_path / "two").mkdir()
    for file in (tmp_path / "one").glob(moved):
        file.rename(tmp_path / "two" / file.name)
    with pytest.raises(UserError, match="elsewhere"):
        read_idx_folder(tmp_path)
