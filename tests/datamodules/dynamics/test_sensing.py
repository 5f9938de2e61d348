"""Matrices and measurements, drawn and read."""

import numpy as np
import pytest
import torch

from datamodules.dynamics.sensing import MatrixSensing, digits_covariance, gaussian_operator, low_rank, sample_image
from framework.errors import UserError


def batch_of(**options):
    data = MatrixSensing(**options)
    data.setup("fit")
    return data.train_set.batch


def test_the_matrix_has_the_rank_and_the_condition():
    m = low_rank(20, 15, 3, 4.0, torch.Generator().manual_seed(0), symmetric=False)
    values = torch.linalg.svdvals(m)
    torch.testing.assert_close(values[:3], torch.linspace(1, 0.25, 3, dtype=torch.float64))
    assert values[3:].max() < 1e-12
    psd = low_rank(20, 20, 3, 1.0, torch.Generator().manual_seed(0), symmetric=True)
    assert torch.linalg.eigvalsh(psd).min() > -1e-12


def test_the_operator_is_the_identity_on_average():
    a = gaussian_operator(20_000, 5, 4, torch.Generator().manual_seed(0), symmetric=False)
    assert (a.T @ a - torch.eye(20)).abs().max() < 0.05


def test_measurements_are_of_the_matrix_and_the_seed_decides():
    batch = batch_of(rows=10, measurements=40)
    torch.testing.assert_close(batch["y"], batch["operator"] @ batch["matrix"].flatten())
    assert torch.equal(batch["y"], batch_of(rows=10, measurements=40)["y"])
    assert not torch.equal(batch["y"], batch_of(rows=10, measurements=40, seed=1)["y"])
    assert set(batch_of(rows=10, measurements=0)) == {"matrix"}


@pytest.mark.parametrize(("draw", "shape"), [(digits_covariance, (64, 64)), (sample_image, (48, 64))])
def test_real_matrices_are_of_rank_three_and_norm_one(draw, shape):
    pytest.importorskip("PIL")
    m = draw(3)
    assert m.shape == shape
    values = torch.linalg.svdvals(m)
    assert float(values[0]) == pytest.approx(1)
    assert values[3] < 1e-10
    if draw is digits_covariance:
        assert float(values[0] / values[2]) == pytest.approx(1.26, abs=0.01)


def test_files_are_read(tmp_path):
    rng = np.random.default_rng(0)
    a, m = rng.normal(size=(6, 3, 4)), rng.normal(size=(3, 4))
    np.savez(tmp_path / "both.npz", A=a, y=np.einsum("mij,ij->m", a, m), M=m)
    batch = batch_of(path=str(tmp_path / "both.npz"), symmetric=False)
    torch.testing.assert_close(batch["operator"] @ batch["matrix"].flatten(), batch["y"])
    np.savez(tmp_path / "blind.npz", A=a, y=np.ones(6))
    assert set(batch_of(path=str(tmp_path / "blind.npz"), symmetric=False)) == {"operator", "y"}
    np.save(tmp_path / "m.npy", m)
    assert batch_of(path=str(tmp_path / "m.npy"), measurements=7)["operator"].shape == (7, 12)


@pytest.mark.parametrize(
    "arrays",
    [{"A": np.ones((2, 3, 3))}, {"A": np.ones((2, 3, 3)), "y": np.ones(3)}, {"M": np.ones(3)}, {"x": np.ones(3)}],
)
def test_files_with_something_else_are_named(tmp_path, arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=r"bad\.npz: .*; expected "):
        batch_of(path=str(tmp_path / "bad.npz"))


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: not found"):
        batch_of(path=str(tmp_path / "none.npz"))
    (tmp_path / "broken.npz").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"broken\.npz: cannot be read"):
        batch_of(path=str(tmp_path / "broken.npz"))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"source": "noise"}, "source"),
        ({"rows": 0}, "rows"),
        ({"rank": 60}, "rank"),
        ({"condition": 0.5}, "condition"),
        ({"measurements": -1}, "measurements"),
        ({"columns": 20}, "symmetric"),
        ({"source": "image"}, "symmetric"),
        ({"passes": 0}, "passes"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        MatrixSensing(**options)
