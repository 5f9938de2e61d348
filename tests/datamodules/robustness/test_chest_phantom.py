"""Phantoms of chest radiographs: outlines, frequencies, what a finding changes, and the parts."""

import importlib.util
import zipfile

import numpy as np
import pytest
import torch
from tiny_files import write_phantom_parts

from datamodules.robustness import chest_phantom
from datamodules.robustness.chest_phantom import (
    APPEARANCES,
    MASKS,
    SIDE,
    TABLE,
    ChestPhantom,
    draw_labels,
    draw_phantoms,
    read_frequencies,
    read_outlines,
)
from framework.errors import UserError

with_package = pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None, reason="needs torchxrayvision: pip install .[radiographs]"
)
SMALL = {"train_samples": 40, "val_samples": 10, "test_samples": 20, "public_samples": 30, "image_size": 32}
NOTHING, CARDIOMEGALY, EFFUSION = [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]


@pytest.fixture
def folder(tmp_path):
    write_phantom_parts(tmp_path / "data")
    return tmp_path / "data"


def drawn(folder, labels, size=64, domain="private", seed=0, rows=8):
    """The same eight phantoms with other labels."""
    outlines = read_outlines(folder / MASKS)[np.arange(rows)]
    return draw_phantoms(outlines, np.array([labels] * rows), size, APPEARANCES[domain], np.random.default_rng(seed))


def test_outlines_fill_their_box_and_empty_masks_are_left_out(folder):
    found = read_outlines(folder / MASKS)
    assert found.shapes.shape == (11, SIDE, SIDE)  # one of twelve is empty
    assert (found.shapes.max((1, 2)) == 1).all()
    assert (found.shapes[:, :, SIDE // 2 - 3 : SIDE // 2 + 3] < 0.5).all()  # between the lungs
    # Two ellipses of 0.17 x height around 0.33 and 0.78, in units of the mask's height.
    heights = np.delete(0.25 + 0.01 * np.arange(12), 3)
    np.testing.assert_allclose(found.aspects, (0.45 + 2 * 0.17) / (2 * heights), rtol=0.06)
    np.testing.assert_allclose(found.bases, 1, atol=2 / SIDE)


def test_frequencies_are_counts_of_the_table(folder):
    found = read_frequencies(folder / TABLE)
    counts = dict(zip(map(tuple, found.combinations.tolist()), found.counts.tolist(), strict=True))
    assert counts == {
        (0, 0, 0, 0, 1): 6,
        (1, 0, 1, 0, 0): 1,
        (0, 1, 0, 0, 0): 1,
        (0, 0, 0, 0, 0): 1,
        (0, 0, 0, 1, 0): 1,
        (0, 0, 1, 0, 0): 1,
    }


def test_labels_have_the_joint_frequencies_of_the_table_and_tempered_ones_in_public(folder):
    found, count = read_frequencies(folder / TABLE), 20_000
    for domain, power in (("private", 1.0), ("public", 0.5)):
        labels = draw_labels(found, count, APPEARANCES[domain], np.random.default_rng(0))
        expected = found.counts**power / (found.counts**power).sum()
        deviation = np.sqrt(expected * (1 - expected) / count)
        assert (np.abs(np.bincount(labels) / count - expected) < 4 * deviation).all()


def test_a_finding_adds_density_where_it_is(folder):
    """Everything but the photons is drawn from the same numbers, so that only the finding differs."""
    healthy = drawn(folder, NOTHING)[:, 0].astype(float)
    base, apex = slice(40, 60), slice(8, 24)
    for label in (EFFUSION, CARDIOMEGALY, [1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]):
        assert (drawn(folder, label)[:, 0].astype(float) - healthy).mean((1, 2)).min() > 0, label
    fluid = drawn(folder, EFFUSION)[:, 0] - healthy
    assert fluid[:, base].mean() > 5 * abs(fluid[:, apex].mean())
    outer = fluid[:, base, :20].mean((1, 2)) + fluid[:, base, 44:].mean((1, 2))
    spine = fluid[:, base, 28:36].mean((1, 2))
    assert (outer > 2 * np.abs(spine)).all()  # in the costophrenic angles
    heart = drawn(folder, CARDIOMEGALY)[:, 0] - healthy
    assert heart[:, base, 16:52].mean() > 5 * abs(heart[:, apex].mean())


def test_domains_differ_and_seeds_repeat(folder):
    private = drawn(folder, NOTHING)
    assert np.array_equal(private, drawn(folder, NOTHING))
    assert not np.array_equal(private, drawn(folder, NOTHING, seed=1))
    assert private.shape == (8, 1, 64, 64)
    assert private.dtype == np.uint8
    noise = [
        np.abs(np.diff(drawn(folder, NOTHING, domain=d)[:, 0, 60:, 10:50].astype(float))).mean() for d in APPEARANCES
    ]
    assert noise[1] > 1.3 * noise[0]  # fewer photons


def test_parts_and_batches(folder):
    data = ChestPhantom(folder, batch_size=16, **SMALL)
    data.setup("fit")
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [40, 10, 20]
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((16, 1, 32, 32), torch.float32, (16, 5), torch.int64)
    assert float(x.min()) >= -2
    assert float(x.max()) <= 2
    assert (y[:, :4].sum(1) * y[:, 4] == 0).all()  # no finding together with one
    assert data.source["x"].shape == (30, 1, 32, 32)
    again = ChestPhantom(folder, **SMALL)
    again.setup("test")
    assert again.source == {}
    assert torch.equal(again.test_set.tensors[0], data.test_set.tensors[0])
    other = ChestPhantom(folder, domain="public", **SMALL)
    other.setup("test")
    assert not torch.equal(other.test_set.tensors[0], data.test_set.tensors[0])


@pytest.mark.parametrize("masks", [4, 5, 12])
def test_no_outline_is_in_two_parts(folder, masks, monkeypatch):
    write_phantom_parts(folder, n=masks + (masks > 3))
    seen = {}

    def note(self, part, domain, outlines, frequencies):
        seen[part] = {shape.tobytes() for shape in outlines.shapes}
        return torch.zeros(3, 1, 32, 32, dtype=torch.uint8), np.zeros(3, np.int64)

    monkeypatch.setattr(ChestPhantom, "_draw", note)
    ChestPhantom(folder, **SMALL).setup("fit")
    assert list(seen) == ["train", "val", "test", "public"]
    assert all(seen.values())
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == masks


def test_what_is_refused(folder, monkeypatch):
    with pytest.raises(UserError, match="domain"):
        ChestPhantom(folder, domain="secret")
    with pytest.raises(UserError, match="image_size"):
        ChestPhantom(folder, image_size=8)
    monkeypatch.setattr(chest_phantom.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'modular-framework\[radiographs\]'"):
        ChestPhantom().setup("fit")
    write_phantom_parts(folder, n=4)
    with pytest.raises(UserError, match=r"lungs\.zip: 3 of 4 masks have two lungs; 4 are needed"):
        ChestPhantom(folder).setup("fit")
    for labels, message in (("", "is empty"), ("No Finding|Mass", "No Finding and a finding")):
        (folder / TABLE).write_text(f"Image Index,Finding Labels\na,Mass\nb,{labels}\n")
        with pytest.raises(UserError, match=message):
            read_frequencies(folder / TABLE)
    with zipfile.ZipFile(folder / MASKS, "w") as archive:
        archive.writestr("a/../../b.png", b"")
    with pytest.raises(UserError, match="leads out of its folder"):
        read_outlines(folder / MASKS)


@with_package
def test_frequencies_of_the_shipped_table():
    found = read_frequencies(chest_phantom.shipped_folder() / f"{TABLE}.gz")
    assert found.counts.sum() == 112_120
    assert (found.counts @ found.combinations).tolist() == [11_559, 2_776, 13_317, 1_431, 60_361]


@with_package
def test_shipped_masks(tmp_path):
    with zipfile.ZipFile(chest_phantom.shipped_folder() / MASKS) as shipped:
        names = [name for name in sorted(shipped.namelist()) if not name.endswith("/")]
        assert len(names) == 517
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as some:
            for name in names[::20]:
                some.writestr(name, shipped.read(name))
    found = read_outlines(tmp_path / "some.zip")
    assert 15 <= len(found) <= 26
    assert 0.4 < found.shapes.mean() < 0.75
