"""Noisy linear teachers, drawn and on the user's inputs."""

import numpy as np
import pytest
import torch

from datamodules.dynamics.noisy_teacher import NoisyTeacher
from framework.errors import UserError


def batch_of(**options):
    data = NoisyTeacher(**options)
    data.setup("fit")
    return data.train_set.batch


def test_the_draws_have_the_variances():
    batch = batch_of(inputs=300, alpha=2.0, snr=4.0, draws=5)
    assert batch["x"].shape == (5, 300, 600)
    assert float(batch["x"].var()) * 300 == pytest.approx(1, rel=0.02)
    assert float(batch["teacher"].var()) == pytest.approx(4, rel=0.1)
    noise = batch["y"] - (batch["teacher"][:, None] @ batch["x"])[:, 0]
    assert float(noise.var()) == pytest.approx(1, rel=0.1)
    assert torch.equal(batch["y"], batch_of(inputs=300, alpha=2.0, snr=4.0, draws=5)["y"])


def test_files_are_read_and_scaled(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 9))
    np.savez(tmp_path / "x.npz", X=7 * x)
    found = batch_of(path=str(tmp_path / "x.npz"), draws=2)
    assert found["x"].shape == (2, 4, 9)
    assert float(found["x"][0].square().mean()) == pytest.approx(1 / 4)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: not found"):
        batch_of(path=str(tmp_path / "none.npz"))
    np.savez(tmp_path / "bad.npz", Y=np.ones(3))
    with pytest.raises(UserError, match=r"bad\.npz: lacks X \(it has Y \(3,\)\); expected "):
        batch_of(path=str(tmp_path / "bad.npz"))
    np.savez(tmp_path / "zero.npz", X=np.zeros((2, 2)))
    with pytest.raises(UserError, match=r"zero\.npz: X has only zeros; expected "):
        batch_of(path=str(tmp_path / "zero.npz"))


@pytest.mark.parametrize(
    ("options", "key"),
    [({"inputs": 0}, "inputs"), ({"alpha": 0.0}, "alpha"), ({"snr": 0.0}, "snr"), ({"draws": 0}, "draws")],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        NoisyTeacher(**options)
