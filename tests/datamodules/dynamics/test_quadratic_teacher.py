"""Samples of a quadratic teacher, drawn and read."""

import numpy as np
import pytest
import torch

from datamodules.dynamics.quadratic_teacher import QuadraticTeacher
from framework.errors import UserError


def batch_of(**options):
    data = QuadraticTeacher(**options)
    data.setup("fit")
    return data.train_set.batch


def test_labels_are_of_the_teacher_and_the_seed_decides():
    options = {"dimension": 10, "samples": 50, "width": 5}
    batch = batch_of(**options)
    y = ((batch["x"] @ batch["matrix"]) * batch["x"]).sum(-1) / 10
    torch.testing.assert_close(batch["level"] + batch["labels"] / 10**0.5, y)
    assert torch.equal(batch["labels"], batch_of(**options)["labels"])
    assert not torch.equal(batch["labels"], batch_of(**options, seed=1)["labels"])
    noise = batch_of(dimension=10, samples=5000, width=5, noise=0.5)["labels"]
    assert (noise - batch_of(dimension=10, samples=5000, width=5)["labels"]).var() == pytest.approx(0.5, rel=0.1)


def test_a_file_is_read_and_centred(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30.0)
    np.savez(tmp_path / "own.npz", X=x, y=y)
    batch = batch_of(path=str(tmp_path / "own.npz"))
    assert set(batch) == {"x", "labels", "level"}
    torch.testing.assert_close(batch["level"] + batch["labels"] / 2, torch.as_tensor(y))


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "bad.npz"
    with pytest.raises(UserError, match=r"bad\.npz: not found"):
        batch_of(path=str(path))
    path.write_text("no")
    with pytest.raises(UserError, match="cannot be read"):
        batch_of(path=str(path))
    for arrays in ({"X": np.ones((3, 2))}, {"X": np.ones((3, 2)), "y": np.ones(2)}):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=r"bad\.npz"):
            batch_of(path=str(path))
    np.savez(path, X=np.full((3, 2), np.nan), y=np.ones(3))
    with pytest.raises(UserError, match="not finite"):
        batch_of(path=str(path))


@pytest.mark.parametrize(
    ("name", "value"), [("dimension", 0), ("samples", 0), ("width", 0), ("passes", 0), ("noise", -1)]
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(UserError, match=name):
        QuadraticTeacher(**{name: value})


def test_digits_are_white_and_no_picture_comes_twice():
    batch = batch_of(source="digits", dimension=30, samples=1797, width=15)
    torch.testing.assert_close(batch["x"].mT @ batch["x"] / 1797, torch.eye(30).double())
    y = ((batch["x"] @ batch["matrix"]) * batch["x"]).sum(-1) / 30
    torch.testing.assert_close(batch["level"] + batch["labels"] / 30**0.5, y)
    for options, words in (
        ({"samples": 2000, "dimension": 20}, "samples: 2000 is not accepted; at most 1797"),
        ({"samples": 100, "dimension": 64}, "dimension: 64 is not accepted; at most 61"),
        ({"source": "faces"}, "source: 'faces' is not one of gaussian, digits"),
    ):
        with pytest.raises(UserError, match=words):
            batch_of(**{"source": "digits", **options})
