"""Generated observations: supports, the map and its Jacobian, redraws, and a user's arrays."""

import numpy as np
import pytest
import torch

from datamodules.interpretability.structured_mixing import (
    Mixing,
    StructuredMixing,
    draw_latents,
    draw_mixing,
    support_matrix,
)
from framework.errors import UserError
from framework.functional.dependency import jacobian_columns
from framework.functional.identifiability import atoms

SMALL = {"samples": 300, "val_samples": 40, "test_samples": 30}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_families_of_supports():
    assert support_matrix("ring", 4).astype(int).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]
    # of three latents the complement of the identity is the ring, with its rows in another order
    ring, complement = (sorted(map(tuple, support_matrix(name, 3))) for name in ("ring", "complement"))
    assert ring == complement
    assert (support_matrix("lower", 3) == np.tri(3)).all()
    assert atoms(support_matrix("blocks", 5, blocks=2)) == ((0, 1, 2), (3, 4))
    assert support_matrix("full", 3).all()
    drawn = support_matrix("random", 40, density=0.25, seed=3)
    assert drawn.diagonal().all()
    assert drawn.mean() == pytest.approx(0.25, abs=0.03)
    assert (drawn == support_matrix("random", 40, density=0.25, seed=3)).all()


def test_the_jacobian_of_a_map_has_its_support():
    support = support_matrix("ring", 4)
    mixing = Mixing(support, generator())
    z = torch.randn(50, 4)
    entries = jacobian_columns(mixing, z).permute(1, 2, 0)
    assert (entries.abs().amax(0).numpy() > 0)[support].all()
    assert not entries[:, ~torch.as_tensor(support)].any()
    spread = entries.std(0)[torch.as_tensor(support)]
    assert (spread > 0.01).all(), "it is not linear"
    linear = Mixing(support, generator(), nonlinearity=0)
    torch.testing.assert_close(linear(z), z.double() @ linear.skip.T)
    assert (linear.skip < 0).any()
    assert (linear.skip > 0).any()


def test_maps_are_drawn_until_one_is_injective():
    support = support_matrix("ring", 3)
    mixing, draws = draw_mixing(support, "normal", generator(0))
    assert draws > 1  # the first maps of this seed are not
    z = draw_latents("normal", 2000, 3, generator(5))
    determinants = torch.linalg.det(jacobian_columns(mixing, z).permute(1, 2, 0))
    assert determinants.sign().unique().numel() == 1
    with pytest.raises(UserError, match=r"redraws: in 1 draws no map of this support \(3 x 3, 6 entries\)"):
        draw_mixing(support, "normal", generator(0), redraws=1)
    wide, _ = draw_mixing(np.concatenate([support, support]), "normal", generator(0))
    assert wide(z).shape == (2000, 6)
    with pytest.raises(UserError, match="support: 2 observations of 3 latents are not accepted"):
        draw_mixing(support[:2], "normal", generator(0))
    with pytest.raises(UserError, match="no observation depends on latent 1"):
        draw_mixing(np.array([[1, 0], [1, 0]]), "normal", generator(0))
    for hopeless in ([[1, 1], [0, 0]], [[1, 1, 1], [0, 0, 1], [0, 0, 1]]):
        with pytest.raises(UserError, match="support: no map of it is injective, whatever its weights"):
            draw_mixing(np.array(hopeless), "normal", generator(0))
    one, _ = draw_mixing(np.ones((1, 1)), "normal", generator(0))
    assert one(z[:, :1]).shape == (2000, 1)


@pytest.mark.parametrize(("kind", "kurtosis"), [("normal", 3.0), ("laplace", 6.0), ("uniform", 1.8)])
def test_latents_have_variance_one_and_their_own_tails(kind, kurtosis):
    z = draw_latents(kind, 100_000, 2, generator())
    assert z.mean(0).abs().max() < 0.02
    torch.testing.assert_close(z.var(0), torch.ones(2, dtype=z.dtype), atol=0.03, rtol=0)
    assert float((z**4).mean()) == pytest.approx(kurtosis, rel=0.05)


def test_parts_are_disjoint_standardised_and_the_same_for_a_seed():
    data = StructuredMixing(**SMALL)
    data.setup("fit")
    parts = [part.tensors for part in (data.train_set, data.val_set, data.test_set)]
    assert [len(part["x"]) for part in parts] == [300, 40, 30]
    train = parts[0]["x"]
    torch.testing.assert_close(train.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(3))
    every = torch.cat([part["z"] for part in parts])
    assert len(every.unique(dim=0)) == 370
    again, other = StructuredMixing(**SMALL), StructuredMixing(**SMALL, seed=1)
    again.setup("fit"), other.setup("fit")
    assert torch.equal(again.train_set.tensors["x"], train)
    assert not torch.equal(other.train_set.tensors["x"], train)
    assert data.inputs == 3
    assert (data.true_support() == support_matrix("ring", 3)).all()
    batch = next(iter(data.val_dataloader()))
    assert data.true_latents(batch) is batch["z"]


def test_noise_is_added_to_the_same_samples():
    clean, noisy = (StructuredMixing(**SMALL, standardise=False, noise=noise) for noise in (0.0, 0.1))
    clean.setup("fit"), noisy.setup("fit")
    x, y = (data.train_set.tensors["x"] for data in (clean, noisy))
    assert torch.equal(clean.train_set.tensors["z"], noisy.train_set.tensors["z"])
    torch.testing.assert_close((y - x).std(0) / x.std(0), torch.full((3,), 0.1), atol=0.02, rtol=0)


def test_a_users_arrays_as_npz_folder_or_one_npy(tmp_path):
    rng = np.random.default_rng(0)
    x, z, support = rng.normal(size=(60, 4)), rng.normal(size=(60, 2)), np.array([[1, 0], [0, 1], [1, 1], [1, 0]])
    np.savez(tmp_path / "a.npz", x=x, z=z, support=support)
    (tmp_path / "folder").mkdir()
    for name, array in (("x", x), ("z", z), ("support", support)):
        np.save(tmp_path / "folder" / f"{name}.npy", array)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "s.npy", support)
    sizes = {"val_samples": 10, "test_samples": 10, "standardise": False}
    for path in (tmp_path / "a.npz", tmp_path / "folder"):
        data = StructuredMixing(path, **sizes)
        data.setup("fit")
        assert len(data.train_set) == 40
        found = torch.cat([part.tensors["x"] for part in (data.train_set, data.val_set, data.test_set)])
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, x.astype(np.float32).tolist()))
        row = data.train_set.tensors
        place = int((torch.as_tensor(x).float() == row["x"][0]).all(1).nonzero())
        torch.testing.assert_close(row["z"][0], torch.as_tensor(z[place]).float())
        assert (data.true_support() == support).all()
    alone = StructuredMixing(tmp_path / "x.npy", support=tmp_path / "s.npy", **sizes)
    alone.setup("fit")
    batch = next(iter(alone.train_dataloader()))
    assert set(batch) == {"x"}
    assert alone.true_latents(batch) is None
    assert (alone.true_support() == support).all()
    with pytest.raises(UserError, match=r"x\.npy: has 60 samples; val_samples and test_samples take 60"):
        StructuredMixing(tmp_path / "x.npy", val_samples=50, test_samples=10).setup("fit")
    np.save(tmp_path / "s.npy", support[:3])
    with pytest.raises(UserError, match=r"s\.npy: the support is \(3, 2\)"):
        StructuredMixing(tmp_path / "x.npy", support=tmp_path / "s.npy", **sizes).setup("fit")


def test_a_users_support_makes_the_map(tmp_path):
    support = np.array([[1, 0], [1, 1], [0, 1]])
    np.save(tmp_path / "s.npy", support)
    data = StructuredMixing(support=tmp_path / "s.npy", **SMALL)
    data.setup("fit")
    assert data.inputs == 3
    assert data.train_set.tensors["z"].shape == (300, 2)
    np.save(tmp_path / "s.npy", support + 1)
    with pytest.raises(UserError, match=r"s\.npy: support: has values that are not 0 or 1"):
        StructuredMixing(support=tmp_path / "s.npy", **SMALL).setup("fit")
    np.save(tmp_path / "s.npy", support.T)
    with pytest.raises(UserError, match=r"s\.npy: support: 2 observations of 3 latents"):
        StructuredMixing(support=tmp_path / "s.npy", **SMALL).setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structure": "rings"}, "'rings' is not one of .*; did you mean 'ring'"),
        ({"dimension": 1}, "dimension: 1 is not accepted; at least 2"),
        ({"blocks": 4}, r"blocks: 4 is not accepted; at most 3 \(dimension\)"),
        ({"structure": "random", "density": 0.1}, "density: 0.1 is not accepted"),
        ({"latents": "cauchy"}, "'cauchy' is not one of normal, laplace, uniform"),
        ({"noise": -1.0}, "noise: -1.0 is not accepted"),
        ({"redraws": 0}, "redraws: 0 is not accepted"),
    ],
)
def test_settings_that_are_not_accepted(settings, message):
    with pytest.raises(UserError, match=message):
        StructuredMixing(**settings)
