"""Radiographs by their tables: parts, views, labels, pictures, and patients in two parts."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_files import RADIOGRAPHS, write_radiographs

from datamodules.robustness.chest_xrays import LAYOUTS, ChestXrays
from framework.errors import UserError
from framework.readers.pictures import read_picture

SOURCES = tuple(LAYOUTS)


def made(folder, source, **settings):
    write_radiographs(folder, source)
    data = ChestXrays(folder, source, **settings)
    data.setup("fit")
    return data


@pytest.mark.parametrize("source", SOURCES)
def test_parts_views_and_labels_are_those_of_the_table(tmp_path, source):
    data = made(tmp_path, source)
    views = 0 if source == "chest_xray14" else 1  # the picture number 1 is lateral
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [12 - views, 6, 6]
    x, y = data.train_set[0]
    assert x.shape == (3, 224, 224)
    assert y.tolist() == [1, 1, 1, 1, 1]  # number 0, whose last finding is written 1.0
    assert data.val_set[0][1].tolist() == [1, 1, 0, 1, 1]  # number 4
    assert data.test_set[0][1].tolist() == [1, 0, 0, 1, 0]  # number 6: -1 is uncertain
    assert data.label_names[2] == ("effusion" if source == "chest_xray14" else "pleural_effusion")


@pytest.mark.parametrize("source", SOURCES)
def test_pixels_are_those_of_the_picture(tmp_path, source):
    write_radiographs(tmp_path, source, size=8)
    data = ChestXrays(tmp_path, source, image_size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    # image sizes without a name of their own are in preprocessed<size>
    data.setup("fit")
    expected = torch.from_numpy(read_picture(data.train_set.files[0], 3)).permute(2, 0, 1)
    torch.testing.assert_close(data.train_set[0][0] * 0.25 + 0.5, expected)


def test_the_folder_of_the_set_and_the_one_of_a_size_are_found(tmp_path):
    write_radiographs(tmp_path, "padchest")
    inner = ChestXrays(tmp_path / "padchest", "padchest")
    inner.setup("fit")
    (tmp_path / "all").mkdir()
    (tmp_path / "padchest").rename(tmp_path / "all" / "padchest")
    (tmp_path / "all").rename(tmp_path / "preprocessed_224")
    outer = ChestXrays(tmp_path, "padchest")
    outer.setup("fit")
    assert len(inner.train_set) == len(outer.train_set) == 11


def test_originals_are_read_where_no_preprocessed_ones_are(tmp_path):
    write_radiographs(tmp_path, "chexpert")
    folder = tmp_path / "CheXpert-v1.0"
    for part in (folder / "preprocessed224").iterdir():
        part.rename(folder / part.name)
    (folder / "preprocessed224").rmdir()
    data = ChestXrays(tmp_path, "chexpert")
    data.setup("fit")
    assert data.train_set[0][0].shape == (3, 224, 224)


def test_augmentation_is_of_training_batches_alone(tmp_path):
    data = made(tmp_path, "padchest", augment="flip_rotate", channels=1)
    assert data.train_set.draws_random_numbers
    assert not data.examples("train").draws_random_numbers
    plain = data.examples("train")[0][0]
    torch.manual_seed(0)
    assert any(not torch.equal(data.train_set[0][0], plain) for _ in range(4))
    assert torch.equal(data.examples("train")[0][0], plain)
    assert plain.shape == (1, 224, 224)


@pytest.mark.parametrize(
    ("source", "patient"), [("chexpert", "patient00000"), ("mimic", "p00000000"), ("chest_xray14", "00000000")]
)
def test_a_patient_in_two_parts_is_refused(tmp_path, source, patient):
    write_radiographs(tmp_path, source)
    table = tmp_path / LAYOUTS[source].folder / "masterlist.csv"
    lines = table.read_text().rstrip().split("\n")
    table.write_text("\n".join([*lines, lines[1].replace("train,", "test,", 1)]) + "\n")
    with pytest.raises(UserError, match=rf"masterlist.csv, line 26: patient {patient} is in train and in test"):
        ChestXrays(tmp_path, source).setup("fit")


def test_a_patient_of_a_column_in_two_parts_is_refused(tmp_path):
    write_radiographs(tmp_path, "padchest")
    table = tmp_path / "padchest" / "masterlist.csv"
    lines = table.read_text().rstrip().split("\n")
    rows = [f"{line},{'PatientID' if i == 0 else 'x7'}" for i, line in enumerate(lines)]
    table.write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match="patient x7 is in train and in val"):
        ChestXrays(tmp_path, "padchest").setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("valid,", "later,"), r"masterlist.csv, line 6: split 'later'; train, valid or test is expected"),
        (("test,", "train,"), "has no row of the test part with view PA or AP or AP_horizontal"),
        (("pneumonia", "fever"), "column 'pneumonia' not found; it has split, view"),
        ((",7,1,", ",7,perhaps,"), "column 'atelectasis' holds 'perhaps'; 1, 0, -1 or nothing is expected"),
        (("0.png", "missing.png"), "missing.png: not found, though"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, change, message):
    write_radiographs(tmp_path, "padchest")
    table = tmp_path / "padchest" / "masterlist.csv"
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        ChestXrays(tmp_path, "padchest").setup("fit")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("form", ["slash", "windows"])
def test_paths_that_begin_with_a_slash_or_are_windows_are_below_the_folder(tmp_path, source, form):
    column = RADIOGRAPHS[source][1]
    write_radiographs(tmp_path, source)
    plain = ChestXrays(tmp_path, source)
    plain.setup("fit")
    table = tmp_path / LAYOUTS[source].folder / "masterlist.csv"
    header, *lines = table.read_text().rstrip().split("\n")
    place = header.split(",").index(column)
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[place] = row[place].replace("/", "\\") if form == "windows" else f"/{row[place]}"
    table.write_text("\n".join([header.upper(), *(",".join(row) for row in rows)]) + "\n")
    data = ChestXrays(tmp_path, source)
    data.setup("fit")
    assert data.test_set.files == plain.test_set.files
    assert torch.equal(data.test_set.targets, plain.test_set.targets)


def test_pictures_of_16_bits_keep_their_shades(tmp_path):
    write_radiographs(tmp_path, "padchest", size=8)
    data = ChestXrays(tmp_path, "padchest", image_size=8, channels=1, mean=(0.0,), std=(1.0,))
    data.setup("fit")
    shades = np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(data.train_set.files[0])
    assert data.train_set[0][0][0].numpy() == pytest.approx(shades / 65_535, abs=1 / 255)


def test_settings_that_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"source: 'nih' is not one of chexpert, mimic, chest_xray14, padchest"):
        ChestXrays(tmp_path, "nih")
    with pytest.raises(UserError, match=r"path: .* has no MIMIC/masterlist\.csv, which source mimic is read from"):
        ChestXrays(tmp_path, "mimic").setup("fit")
    with pytest.raises(UserError, match="mean: 1 values for 3 channels"):
        ChestXrays(tmp_path, mean=(0.5,))
