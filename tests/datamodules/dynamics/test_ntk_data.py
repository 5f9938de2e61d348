"""Circle and digits: what a batch holds, the user's files, what is refused."""

import numpy as np
import pytest
import torch

from datamodules.dynamics.circle import Circle
from datamodules.dynamics.digits_component import DigitsComponent
from framework.errors import UserError


def batch_of(data):
    data.setup("fit")
    return data.train_set.batch


def test_batches():
    batch = batch_of(Circle())
    torch.testing.assert_close(batch["x"].norm(dim=1), torch.ones(4).double())
    assert batch["probe"].shape == (33, 2)
    assert batch_of(Circle(source="gaussian", samples=7))["y"].shape == (7,)
    digits = batch_of(DigitsComponent(samples=40))
    assert digits["x"].shape == (40, 64)
    assert float(digits["x"].max()) == 1
    assert float(digits["component"].square().mean()) == pytest.approx(1)


def test_the_users_points(tmp_path):
    path = tmp_path / "points.npz"
    np.savez(path, x=np.ones((3, 5)), y=np.arange(3.0))
    assert set(batch_of(Circle(path=str(path)))) == {"x", "y"}
    np.savez(path, x=np.ones((3, 5)), y=np.arange(4.0))
    with pytest.raises(UserError, match=r"points.npz holds .*; expected: "):
        batch_of(Circle(path=str(path)))
    path.write_text("nothing")
    with pytest.raises(UserError, match="cannot be read"):
        batch_of(Circle(path=str(path)))
    with pytest.raises(UserError, match="not found"):
        batch_of(Circle(path=str(tmp_path / "absent.npz")))


def test_mnists_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in images.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    batch = batch_of(DigitsComponent(path=str(tmp_path), samples=5))
    np.testing.assert_allclose(batch["x"].numpy() * 255, images[:5].reshape(5, 16), rtol=1e-6)
    with pytest.raises(UserError, match="samples: 7 is not accepted; there are 6"):
        batch_of(DigitsComponent(path=str(tmp_path), samples=7))


def test_bad_settings():
    for make, words in (
        (lambda: Circle(source="square"), "source: 'square'"),
        (lambda: Circle(probes=0), "probes: 0"),
        (lambda: Circle(angles=[]), "angles"),
        (lambda: DigitsComponent(index=0), "index: 0"),
        (lambda: DigitsComponent(samples=0), "samples: 0"),
    ):
        with pytest.raises(UserError, match=words):
            make()
