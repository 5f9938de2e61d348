"""Digits and a component: what a batch holds, MNIST's files, what is refused."""

import numpy as np
import pytest

from datamodules.dynamics.digits_component import DigitsComponent
from framework.errors import UserError


def batch_of(data):
    data.setup("fit")
    return data.train_set.batch


def test_a_batch():
    batch = batch_of(DigitsComponent(samples=40))
    assert batch["x"].shape == (40, 64)
    assert float(batch["x"].max()) == 1
    assert float(batch["component"].square().mean()) == pytest.approx(1)


def test_mnists_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in images.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    batch = batch_of(DigitsComponent(path=str(tmp_path), samples=5))
    np.testing.assert_allclose(batch["x"].numpy() * 255, images[:5].reshape(5, 16), rtol=1e-6)
    with pytest.raises(UserError, match="samples: 7 is not accepted; at most 6"):
        batch_of(DigitsComponent(path=str(tmp_path), samples=7))


def test_bad_settings():
    for make, words in (
        (lambda: DigitsComponent(index=0), "index: 0"),
        (lambda: DigitsComponent(samples=0), "samples: 0"),
    ):
        with pytest.raises(UserError, match=words):
            make()
