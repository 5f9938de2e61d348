"""Two views of unlabelled data: sources, labels, parts, imbalance, folders of the user, refused settings."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_files import write_cifar, write_idx, write_images

from datamodules.representation.two_views import Examples, TwoViews
from framework.errors import UserError


def ready(*args, **settings):
    data = TwoViews(*args, **{"batch_size": 8, **settings})
    data.setup("fit")
    return data


def test_digits_train_in_views_and_are_clustered_as_they_are():
    data = ready()
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (8, 2, 1, 8, 8)
    assert y.shape == (8,)
    assert not torch.equal(x[:, 0], x[:, 1])
    assert len(data.train_set) == len(data.val_set) == 1617
    assert len(data.test_set) == 180
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, 8)
    plain = torch.cat([x for x, _ in data.val_dataloader()])
    assert float(plain.mean()) == pytest.approx(0, abs=1e-4)
    assert float(plain.std()) == pytest.approx(1, abs=1e-3)


def test_an_incomplete_last_batch_is_dropped():
    sizes = [len(x) for x, _ in ready("curve_union", samples=50, batch_size=20).train_dataloader()]
    assert sizes == [20, 20]


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_odd_classes_are_thinned_in_all_parts(share):
    data, whole = ready(odd_share=share), ready()
    for part in ("train_set", "test_set"):
        counts, full = (
            np.bincount(each.tensors[1], minlength=10) for each in (getattr(data, part), getattr(whole, part))
        )
        assert np.array_equal(counts[::2], full[::2])
        assert np.array_equal(counts[1::2], np.maximum(1, np.round(share * full[1::2])))


def test_idx_and_cifar(tmp_path):
    write_idx(tmp_path / "idx")
    write_cifar(tmp_path)
    data = ready("idx", tmp_path / "idx", channels=3, image_size=9)
    assert next(iter(data.train_dataloader()))[0].shape == (8, 2, 3, 9, 9)
    assert len(data.test_set) == 20
    assert data.views.kind == "affine"
    data = ready("cifar10", tmp_path)
    assert next(iter(data.val_dataloader()))[0].shape == (8, 3, 32, 32)
    assert data.views.kind == "photo"


def test_folders_with_and_without_classes(tmp_path):
    write_images(tmp_path / "a", n=10)
    data = ready("folder", tmp_path / "a", image_size=8, test_fraction=0.2)
    x, _ = next(iter(data.train_dataloader()))
    assert x.shape == (8, 2, 3, 8, 8)
    assert sorted(np.bincount(data.val_set.tensors[1])) == [8, 8]
    assert data.num_classes == 2
    assert len(data.files) == 16
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(12):
        Image.fromarray(np.full((10, 14), 20 * i, np.uint8)).save(flat / f"{i:02}.png")
    data = ready("folder", flat, image_size=8, channels=1, test_fraction=0.25, predict_path=flat)
    (batch,) = next(iter(data.train_dataloader()))
    assert batch.shape == (8, 2, 1, 8, 8)
    assert data.num_classes is None
    (shown,) = data.val_set.tensors
    for file, pixels in zip(data.files, shown, strict=True):
        assert int(pixels[0, 0, 0]) == 20 * int(file.stem)
    assert len(data.predict_set) == 12


def test_the_middle_of_a_picture_is_kept(tmp_path):
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 4:12] = 200
    for i in range(4):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    data = ready("folder", tmp_path, image_size=8, channels=1, test_fraction=0.25, batch_size=2)
    assert bool((data.val_set.tensors[0] == 200).all())


def test_parts_of_a_folder_keep_the_numbers_of_the_classes(tmp_path):
    write_images(tmp_path / "train", ("cat", "dog", "owl"), n=4)
    write_images(tmp_path / "test", ("dog", "owl"), n=2)
    data = ready("folder", tmp_path, image_size=8)
    assert data.test_set.tensors[1].tolist() == [1, 1, 2, 2]


def test_pictures_to_predict_may_lie_in_any_folders(tmp_path):
    write_images(tmp_path / "train", ("cat", "dog", "owl"), n=4)
    for names, labels in (
        (("dog",), [1, 1]),
        (("owl", "dog"), [1, 1, 2, 2]),
        (("holiday",), None),
        (("dog", "x"), None),
    ):
        new = tmp_path / "-".join(names)
        write_images(new, names, n=2)
        data = ready("folder", tmp_path / "train", image_size=8, test_fraction=0.25, predict_path=new)
        found = [part.tolist() for part in data.predict_set.tensors[1:]]
        assert found == ([] if labels is None else [labels])
        assert len(data.predict_set) == 2 * len(names)
    data = ready("folder", tmp_path / "train", image_size=8, test_fraction=0.25, predict_path=tmp_path / "dog" / "dog")
    assert len(data.predict_set) == 2


def test_resizing_many_images_in_parts():
    x = np.random.default_rng(0).integers(0, 256, (1100, 1, 6, 6), dtype=np.uint8)
    data = TwoViews(image_size=3)
    whole, last = (data._sized(Examples(part)).x for part in (x, x[1050:]))
    assert whole.shape == (1100, 1, 3, 3)
    assert np.array_equal(whole[1050:], last)


def test_vectors_with_and_without_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", x=x, y=np.arange(30) % 3)
    (batch,) = next(iter(ready("vectors", tmp_path / "x.npy").train_dataloader()))
    assert batch.shape == (8, 2, 5)
    data = ready("vectors", tmp_path / "xy.npz", augment="none")
    views, _ = next(iter(data.train_dataloader()))
    assert torch.equal(views[:, 0], views[:, 1])
    assert (data.num_classes, data.image_size, data.channels) == (3, None, 5)


def test_a_large_set_is_validated_in_part():
    data = ready(val_samples=100)
    assert len(data.val_set) == 100
    assert len(data.train_set) == len(data.whole_set) == 1617
    assert data.whole_set[3][0].shape == (1, 8, 8)  # without views


def test_what_is_refused(tmp_path):
    for settings, message in (
        ({"source": "digit"}, "source: 'digit' is not one of"),
        ({"source": "folder"}, "path: source 'folder' needs one; without: digits, mnist5k"),
        ({"path": "x"}, "path: 'x' given, but 'digits' needs none; with a path: idx"),
        ({"source": "curve_union", "augment": "affine"}, "augment: 'affine' is not accepted for vectors"),
        ({"source": "curve_union", "image_size": 8}, "image_size, channels: not accepted for vectors"),
        ({"channels": 2}, "channels: 2 is not one of 1, 3"),
        ({"odd_share": 0}, "odd_share: 0 is not accepted"),
        ({"batch_size": 1}, "batch_size: 1 is not accepted; at least 2"),
        ({"test_fraction": 1}, "test_fraction: 1 is not accepted"),
    ):
        with pytest.raises(UserError, match=message):
            TwoViews(**settings)
    with pytest.raises(UserError, match="batch_size: 5000 is more than the 1617 training examples"):
        ready(batch_size=5000)
    with pytest.raises(UserError, match=r"has no pictures; accepted: \.jpg"):
        ready("folder", tmp_path)
    with pytest.raises(UserError, match=r"nowhere: cannot be read"):
        ready("folder", tmp_path / "nowhere")
    np.save(tmp_path / "x.npy", np.ones((30, 3), np.float32))
    np.save(tmp_path / "y.npy", np.ones((4, 2), np.float32))
    with pytest.raises(UserError, match=r"odd_share: 0\.5 is not accepted without labels; .*x\.npy has none"):
        ready("vectors", tmp_path / "x.npy", odd_share=0.5)
    with pytest.raises(UserError, match=r"y\.npy: examples of shape \(2,\); the model has \(3,\)"):
        ready("vectors", tmp_path / "x.npy", predict_path=tmp_path / "y.npy")
