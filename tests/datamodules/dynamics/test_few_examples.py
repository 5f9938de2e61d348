"""A few noisy examples and many clean ones: drawn, embedded and the user's."""

import numpy as np
import pytest
import torch
from tiny_files import write_idx, write_mnist_npz

from datamodules.dynamics.few_examples import FewExamples
from framework.errors import UserError


def batch_of(**options):
    data = FewExamples(**{"examples": 30, "tests": 20, "draws": 2, **options})
    data.setup("fit")
    return data.train_set.batch


def test_a_teachers_outputs_are_clean_on_the_test_and_noisy_in_training():
    batch = batch_of(examples=2000, tests=1500, noise=0.5)
    assert batch["x"].shape == (2, 15, 2000)
    assert float(batch["x"].square().sum(1).mean()) == pytest.approx(1, rel=0.05)
    assert float(batch["y_test"].var()) == pytest.approx(1, rel=0.1)
    assert float(batch["y"].var()) == pytest.approx(1.25, rel=0.1)
    quiet = batch_of(examples=2000, tests=1500, noise=0.0)
    assert torch.equal(quiet["y_test"], batch["y_test"])
    assert float((batch["y"] - quiet["y"]).std()) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(batch["y"][0], batch["y"][1])


def test_digits_are_even_or_odd_with_flips():
    from sklearn.datasets import load_digits

    batch = batch_of(source="digits", examples=1000, tests=797, flip=0.2)
    assert batch["x"].shape == (2, 64, 1000)
    assert batch["y_test"].shape == (2, 797)
    assert set(batch["y"].unique().tolist()) == {-1.0, 1.0}
    clean = batch_of(source="digits", examples=1000, tests=797, flip=0.0)
    assert float((batch["y"] != clean["y"]).double().mean()) == pytest.approx(0.2, abs=0.03)
    found = load_digits()
    even = sum(clean["y"][0].tolist()) + sum(clean["y_test"][0].tolist())
    assert even == ((found.target % 2 == 0).sum() - (found.target % 2 == 1).sum())


def test_diabetes_is_a_regression():
    batch = batch_of(source="diabetes", examples=200, tests=1000, noise=0.0)
    assert batch["x"].shape == (2, 10, 200)
    assert batch["y_test"].shape == (2, 242)  # what is left of 442
    outputs = torch.cat([batch["y"][0], batch["y_test"][0]])
    assert float(outputs.var()) == pytest.approx(1)
    assert float(outputs.mean()) == pytest.approx(0, abs=1e-12)


def test_files_are_read(tmp_path):
    write_mnist_npz(tmp_path / "keras")
    write_idx(tmp_path / "idx")
    for folder, inputs in (("keras", 784), ("idx", 36)):
        batch = batch_of(path=str(tmp_path / folder), examples=25, flip=0.0)
        assert batch["x"].shape == (2, inputs, 25)
        assert batch["y_test"].shape == (2, 15)
        assert float((batch["y"].sum(1) + batch["y_test"].sum(1)).abs().max()) == 0  # as many even as odd
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", X=rng.normal(size=(3, 50)), Y=rng.normal(size=(1, 50)))
    assert batch_of(path=str(tmp_path / "own.npz"))["x_test"].shape == (2, 3, 20)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: not found"):
        batch_of(path=str(tmp_path / "none.npz"))
    np.savez(tmp_path / "nan.npz", X=np.full((3, 50), np.nan), Y=np.ones((1, 50)))
    with pytest.raises(UserError, match=r"nan\.npz: 150 of 150 values of X are not finite"):
        batch_of(path=str(tmp_path / "nan.npz"))
    np.savez(tmp_path / "few.npz", X=np.ones((3, 20)), Y=np.ones((1, 20)))
    with pytest.raises(UserError, match=r"examples: 30 is not accepted; at most 19"):
        batch_of(path=str(tmp_path / "few.npz"))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"source": "mnist"}, "source"),
        ({"inputs": 0}, "inputs"),
        ({"teacher": 0}, "teacher"),
        ({"examples": 0}, "examples"),
        ({"tests": 0}, "tests"),
        ({"draws": 0}, "draws"),
        ({"passes": 0}, "passes"),
        ({"noise": -1.0}, "noise"),
        ({"flip": 0.5}, "flip"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        batch_of(**options)
