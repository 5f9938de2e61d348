"""Correlations of generated, embedded and the user's data."""

import numpy as np
import pytest
import torch
from tiny_files import idx_bytes, write_idx

from datamodules.dynamics.correlations import Correlations, tree_features, whitened
from framework.errors import UserError


def batch_of(**options):
    data = Correlations(**options)
    data.setup("fit")
    return data.train_set.batch


def test_the_trees_features_are_correlated_as_the_tree():
    features = tree_features(3, 20_000, 0.1, torch.Generator().manual_seed(0))
    assert set(features.unique().tolist()) == {-1.0, 1.0}
    found = features.T @ features / 20_000
    q = 0.8**2
    for other, expected in ((1, q), (2, q**2), (4, q**3)):
        assert float(found[0, other]) == pytest.approx(expected, abs=0.03)


def test_sums_means_and_whitening():
    sums, means = (batch_of(source="digits", mean=mean) for mean in (False, True))
    torch.testing.assert_close(sums["s11"], means["s11"] * 1797)
    torch.testing.assert_close(means["syy"], torch.tensor(1.0, dtype=torch.float64))
    for mean in (False, True):
        white = batch_of(source="digits", whiten=True, mean=mean, examples=True)
        assert len(white["s11"]) == 61  # three pixels are always 0
        torch.testing.assert_close(white["s11"], torch.eye(61, dtype=torch.float64))
        torch.testing.assert_close(white["x"] @ white["x"].T / white["count"], white["s11"])
    x = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(whitened(x) @ whitened(x).T, torch.eye(4, dtype=torch.float64))


def test_files_are_read(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 7)), rng.normal(size=(2, 7))
    np.savez(tmp_path / "xy.npz", X=x, Y=y)
    np.testing.assert_allclose(batch_of(path=str(tmp_path / "xy.npz"))["s31"], y @ x.T)
    images, labels = rng.integers(0, 256, (6, 2, 2), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels)
    found = batch_of(path=str(tmp_path / "mnist.npz"))
    flat = images.reshape(6, 4).T / 255
    np.testing.assert_allclose(found["s11"], flat @ flat.T)
    np.testing.assert_allclose(found["s31"], np.eye(3)[labels].T @ flat.T)
    np.savez(tmp_path / "own.npz", images=images.astype(float), labels=labels)
    np.testing.assert_allclose(batch_of(path=str(tmp_path / "own.npz"))["s11"], flat @ flat.T * 255**2)


def test_mnists_own_files_are_read(tmp_path):
    for zipped in (True, False):
        folder = tmp_path / str(zipped)
        content = write_idx(folder, zipped=zipped)
        found = batch_of(path=str(folder), examples=True)
        flat = content["train-images-idx3-ubyte"].reshape(40, 36).T / 255
        np.testing.assert_allclose(found["x"], flat)
        np.testing.assert_allclose(found["s31"], found["y"] @ flat.T)
    with pytest.raises(UserError, match=r"holds .*; give the folder of one"):
        batch_of(path=str(tmp_path))
    content = write_idx(tmp_path / "short")
    (tmp_path / "short" / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(UserError, match=r"labels.*: 3 labels for 40 images"):
        batch_of(path=str(tmp_path / "short"))


def test_examples_come_with_what_their_sums_are_divided_by():
    assert set(batch_of()) == {"s11", "s31", "syy"}
    for mean in (False, True):
        batch = batch_of(source="digits", mean=mean, examples=True)
        assert float(batch["count"]) == (1797 if mean else 1)
        torch.testing.assert_close(batch["y"] @ batch["x"].T / batch["count"], batch["s31"])


def test_files_with_something_else_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: not found"):
        batch_of(path=str(tmp_path / "none.npz"))
    for arrays in ({"X": np.ones((2, 3))}, {"X": np.ones((2, 3)), "Y": np.ones((2, 4))}):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(UserError, match=r"bad\.npz: .*; expected "):
            batch_of(path=str(tmp_path / "bad.npz"))
    (tmp_path / "broken.npz").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"broken\.npz: cannot be read"):
        batch_of(path=str(tmp_path / "broken.npz"))


@pytest.mark.parametrize(
    ("options", "key"),
    [({"source": "mnist"}, "source"), ({"depth": 0}, "depth"), ({"flip": 0.6}, "flip"), ({"passes": 0}, "passes")],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        Correlations(**options)


def test_images_of_whole_numbers_are_bytes(tmp_path):
    """fetch_openml gives MNIST as int64."""
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 2, 2)), np.arange(6) % 3
    for name, kind in (("bytes", np.uint8), ("ints", np.int64)):
        np.savez(tmp_path / f"{name}.npz", images=images.astype(kind), labels=labels)
    found = [batch_of(path=str(tmp_path / f"{name}.npz"))["s11"] for name in ("bytes", "ints")]
    np.testing.assert_array_equal(*found)
    for wrong, message in (
        ({"images": images + 200, "labels": labels}, "images has whole numbers from 2.. to 4..; 0 to 255"),
        ({"images": images, "labels": labels + 10**10}, "whole numbers from 0 to 9999"),
    ):
        np.savez(tmp_path / "bad.npz", **wrong)
        with pytest.raises(UserError, match=message):
            batch_of(path=str(tmp_path / "bad.npz"))
