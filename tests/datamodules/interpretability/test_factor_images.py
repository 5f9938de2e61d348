"""Labelled images: what is kept of the papers' files, colours, splits by combinations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_files import write_pug

from datamodules.interpretability.factor_images import AXES, FactorImages, hues, spaced
from framework.errors import UserError
from framework.protocols import HasConcepts, HasNormalisation


def ready(*arguments, **settings):
    data = FactorImages(*arguments, **settings)
    data.setup("fit")
    return data


def write_like_dsprites(path, sizes=(1, 3, 2, 40, 4, 4), colour=False, white=1):
    """As the real file: 40 orientations from 0 to 2π, both included, pictures of 0 and 1."""
    classes = np.indices(sizes).reshape(6, -1).T
    values = classes.astype(np.float64)
    values[:, 3] = classes[:, 3] * 2 * math.pi / 39
    pictures = np.zeros((len(classes), 8, 8) + ((3,) if colour else ()), np.uint8)
    pictures[np.arange(len(classes)), classes[:, 4], classes[:, 5]] = white
    np.savez(path, imgs=pictures, latents_classes=classes, latents_values=values, metadata=np.array({}, dtype=object))


def test_a_split_has_no_combination_twice():
    data = ready(values={"scale": 2, "orientation": 2, "posX": 3, "posY": 3}, image_size=8)
    parts = [part.labels for part in (data.train_set, data.val_set, data.test_set)]
    sets = [{tuple(row.tolist()) for row in part} for part in parts]
    assert [len(part) for part in sets] == [270, 135, 135]
    assert len(sets[0] | sets[1] | sets[2]) == 540
    assert all(len(parts[0][:, i].unique()) == size for i, size in enumerate(data.sizes))
    assert isinstance(data, HasConcepts)
    assert isinstance(data, HasNormalisation)


def test_dsprites_keeps_a_quarter_turn_and_ten_places(tmp_path):
    """The metadata are a pickle in the real file, which is not read."""
    write_like_dsprites(tmp_path / "b.npz")
    data = ready("dsprites", tmp_path / "b.npz", image_size=8, colours=4, values={"posX": 2})
    assert dict(zip(data.concepts, data.sizes, strict=True)) == {
        "color": 4, "shape": 3, "scale": 2, "orientation": 10, "posX": 2, "posY": 4,
    }  # fmt: skip
    x, y = data.samples.__getitems__([0, len(data.samples) - 1])
    assert x[0].sum() == pytest.approx(hues(4)[0].sum())
    torch.testing.assert_close(x[1, :, 3, 3], torch.from_numpy(hues(4)[3]).float())
    assert y[1].tolist() == [3, 2, 1, 9, 1, 3]
    every = ready("dsprites", tmp_path / "b.npz", image_size=8, max_angle=361, values={"orientation": 40})
    assert every.sizes[3] == 40


def test_a_coloured_file_keeps_its_colours(tmp_path):
    write_like_dsprites(tmp_path / "a.npz", (3, 3, 2, 40, 2, 2), colour=True, white=200)
    data = ready("dsprites", tmp_path / "a.npz", image_size=8)
    assert data.sizes == (3, 3, 2, 10, 2, 2)
    assert data.samples[0][0].max() == pytest.approx(200 / 255)


def test_mpi3d_keeps_ten_of_forty_places(tmp_path):
    assert spaced(40, 10).tolist() == [0, 4, 9, 13, 17, 22, 26, 30, 35, 39]
    grid = (2, 1, 1, 1, 1, 12, 12)
    pictures = np.zeros((288, 8, 8, 3), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(288) % 256
    np.savez_compressed(tmp_path / "real.npz", images=pictures)
    data = ready("mpi3d", tmp_path / "real.npz", image_size=8, grid=list(grid), batch_size=4)
    assert data.concepts == (AXES[0], AXES[5], AXES[6])
    assert data.sizes == (2, 10, 10)
    kept = spaced(12, 10)
    x, y = data.samples[57]
    row = np.ravel_multi_index((0, kept[5], kept[7]), (2, 12, 12))
    assert x[0, 0, 0] * 255 == pytest.approx(row)
    assert y.tolist() == [0, 5, 7]
    labels = np.indices(grid).reshape(7, -1).T
    np.savez(tmp_path / "labelled.npz", images=pictures[::-1], labels=labels[::-1])
    other = ready("mpi3d", tmp_path / "labelled.npz", image_size=8)
    assert other.sizes == data.sizes
    with pytest.raises(UserError, match=r"288 pictures, which is not every combination of a known grid \(1,036,800"):
        ready("mpi3d", tmp_path / "real.npz")


def test_pug_leaves_out_what_the_paper_does(tmp_path):
    write_pug(tmp_path)
    data = ready("pug", tmp_path, image_size=8)
    assert data.concepts == ("world-name", "character-name", "character-scale", "character-texture")
    assert data.sizes == (2, 3, 2, 2)
    assert "Goldfish" not in data.values[1]
    assert "Default" not in data.values[3]
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (12, 3, 8, 8)
    assert y.shape == (12, 4)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    other = ready("pug", tmp_path, image_size=8)
    assert other.fingerprint != data.fingerprint  # the labels may be others
    (tmp_path / "Bear" / "2.png").unlink()
    with pytest.raises(UserError, match=r"Bear.2\.png: not found"):
        ready("pug", tmp_path)


def test_names_in_a_table_do_not_lead_out(tmp_path):
    write_pug(tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",2.png", ",../2.png", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"labels\.csv, line 4: '\.\./2\.png' is not the name of a file"):
        ready("pug", tmp_path)


def test_pictures_are_resized_and_normalised(tmp_path):
    write_like_dsprites(tmp_path / "a.npz", (1, 3, 2, 40, 4, 4))
    plain = ready("dsprites", tmp_path / "a.npz", image_size=4, colours=1)
    own = ready("dsprites", tmp_path / "a.npz", image_size=4, colours=1, mean=(0.5, 0, 0), std=(0.5, 1, 2))
    x, z = plain.samples[5][0], own.samples[5][0]
    torch.testing.assert_close(
        z, (x - torch.tensor([0.5, 0, 0])[:, None, None]) / torch.tensor([0.5, 1, 2])[:, None, None]
    )
    assert x.shape == (3, 4, 4)
    assert 0.5 < x[0].sum() * 4 < 1.5
    assert plain.fingerprint != own.fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "dsprites"}, "path: None is not accepted with source 'dsprites'"),
        ({"path": "a.npz"}, "path: 'a.npz' is not accepted with source 'rendered'"),
        ({"values": {"size": 3}}, "values: 'size' is not one of shape, scale"),
        ({"values": {"scale": 0}}, r"values\.scale"),
        ({"train_fraction": 1.0}, "train_fraction"),
        ({"grid": [1]}, "grid"),
        ({"image_size": 2}, "image_size"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        FactorImages(**settings)


def test_too_small_a_part_for_every_value():
    with pytest.raises(UserError, match=r"train_fraction: 0\.0005 is 4 of 7500 combinations"):
        ready(train_fraction=0.0005, image_size=4)


def test_pictures_of_other_types_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 0, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"images has pictures of the shape \(0, 4, 3\)"):
        ready("mpi3d", tmp_path / "a.npz", grid=[2, 1, 1, 1, 1, 1, 1])
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3)))
    with pytest.raises(UserError, match="images holds float64; uint8 is expected"):
        ready("mpi3d", tmp_path / "a.npz", grid=[2, 1, 1, 1, 1, 1, 1])
