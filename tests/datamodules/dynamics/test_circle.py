"""The circle and Gaussian inputs: what a batch holds, the user's files, what is refused."""

import numpy as np
import pytest
import torch

from datamodules.dynamics.circle import Circle
from framework.errors import UserError


def batch_of(data):
    data.setup("fit")
    return data.train_set.batch


def test_batches():
    batch = batch_of(Circle())
    torch.testing.assert_close(batch["x"].norm(dim=1), torch.ones(4).double())
    assert batch["probe"].shape == (33, 2)
    assert batch_of(Circle(source="gaussian", samples=7))["y"].shape == (7,)


def test_the_users_points(tmp_path):
    path = tmp_path / "points.npz"
    np.savez(path, x=np.ones((3, 5)), y=np.arange(3.0))
    assert set(batch_of(Circle(path=str(path)))) == {"x", "y"}
    np.savez(path, x=np.ones((3, 5)), y=np.arange(4.0))
    with pytest.raises(UserError, match=r"points.npz: .*; expected "):
        batch_of(Circle(path=str(path)))
    path.write_text("nothing")
    with pytest.raises(UserError, match="cannot be read"):
        batch_of(Circle(path=str(path)))
    with pytest.raises(UserError, match="not found"):
        batch_of(Circle(path=str(tmp_path / "absent.npz")))


def test_bad_settings():
    for make, words in (
        (lambda: Circle(source="square"), "source: 'square'"),
        (lambda: Circle(probes=0), "probes: 0"),
        (lambda: Circle(angles=[]), "angles"),
    ):
        with pytest.raises(UserError, match=words):
            make()
