"""Weight matrices with a structure: norm, rank, signs, motifs, types, files."""

import numpy as np
import pytest
import torch

from framework.errors import UserError
from framework.functional.structured_weights import (
    Structure,
    low_rank_part,
    read_matrix,
    structure_of,
    structured,
    type_of,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(rows=40, columns=40):
    return torch.randn(rows, columns, generator=generator(1), dtype=torch.float64) / rows**0.5


def made(kind, reference=None, seed=0, **options):
    return structured(Structure(kind, **options), gaussian() if reference is None else reference, generator(seed))


def test_a_low_rank_keeps_the_norm_and_the_leading_directions():
    full = gaussian()
    for rank in (1, 7, 40, 100):
        found = made("svd_lowrank", rank=rank)
        assert int(torch.linalg.matrix_rank(found)) == min(rank, 40)
        torch.testing.assert_close(found.norm(), full.norm(), rtol=1e-12, atol=0)
    assert torch.equal(made("svd_lowrank", rank=40), full)
    found, (u, s, vt) = low_rank_part(full, 7), np.linalg.svd(full.numpy())
    expected = u[:, :7] * s[:7] @ vt[:7]
    np.testing.assert_allclose(found, expected * np.sqrt((s**2).sum() / (s[:7] ** 2).sum()), atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("svd_lowrank", {"rank": 3}),
        ("dale", {}),
        ("dale", {"balanced": False}),
        ("chain", {"chain": 0.2}),
        ("blocks", {"means": [[1.0, -1.0], [2.0, 0.0]], "probabilities": [[1.0, 0.5], [0.5, 1.0]]}),
    ],
)
@pytest.mark.parametrize("shape", [(40, 40), (30, 20), (20, 30)])
def test_every_kind_has_the_norm_of_what_it_replaces_and_follows_from_the_seed(kind, options, shape):
    reference = gaussian(*shape)
    found = made(kind, reference, **options)
    assert found.shape == shape
    torch.testing.assert_close(found.norm(), reference.norm(), rtol=1e-6, atol=0)
    assert torch.equal(found, made(kind, reference, **options))
    single = made(kind, reference.float(), **options)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=1e-4, atol=1e-5)
    if kind != "svd_lowrank":
        assert not torch.equal(found, made(kind, reference, seed=1, **options))


def test_dale_has_columns_of_one_sign_and_balance():
    for balanced in (True, False):
        found = made("dale", gaussian(2000, 40), balanced=balanced)
        assert (found[:, :32] >= 0).all()
        assert (found[:, 32:] <= 0).all()
        share = float(-found[:, 32:].sum() / found[:, :32].sum())
        assert share == pytest.approx(1 if balanced else 0.25, rel=0.03)
    assert (made("dale", gaussian(3, 2), excitatory=0.99) < 0).any()  # one of each at least


def test_chains_are_more_frequent_than_by_chance():
    found = made("chain", gaussian(1000, 1000), chain=0.2, correlation=0.5)
    w = found / found.square().mean().sqrt()
    # E[w_ij w_jk] over triples is p ρ, E[w_ij w_ik] and E[w_ij w_kj] are p, E[w_ij²] is 1
    into, out = w.mean(1), w.mean(0)
    assert float((into * out).mean()) == pytest.approx(0.2 * 0.5, abs=0.03)
    assert float(into.square().mean()) == pytest.approx(0.2, abs=0.03)
    plain = made("chain", gaussian(1000, 1000), chain=0.0)
    assert abs(float((plain.mean(1) * plain.mean(0)).mean())) < 0.01 * float(plain.square().mean())


def test_blocks_have_the_means_and_probabilities_of_their_types():
    means, kept = [[1.0, -2.0], [3.0, 0.5]], [[1.0, 0.2], [0.0, 1.0]]
    found = made("blocks", gaussian(400, 400), means=means, noise=0.0, fractions=[0.25, 0.75], probabilities=kept)
    scale = found[0, 0]
    assert torch.unique(found[:100, :100] / scale).tolist() == [1.0]
    torch.testing.assert_close(found[100:, 100:] / scale, torch.full((300, 300), 0.5, dtype=torch.float64))
    assert not found[100:, :100].any()
    block = found[:100, 100:] / scale
    assert sorted(block.unique().round(decimals=9).tolist()) == [-2.0, 0.0]
    assert float((block != 0).double().mean()) == pytest.approx(0.2, abs=0.01)
    assert type_of(5, [0.4, 0.6]).tolist() == [0, 0, 1, 1, 1]


def test_the_users_matrix(tmp_path):
    matrix = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "w.npy", matrix)
    np.savetxt(tmp_path / "w.csv", matrix, delimiter=",")
    for name in ("w.npy", "w.csv"):
        found = made("from_file", gaussian(2, 3), path=str(tmp_path / name))
        np.testing.assert_allclose(found / found[0, 1], matrix)
        torch.testing.assert_close(found.norm(), gaussian(2, 3).norm())
        with pytest.raises(UserError, match=r"holds 2 x 3 numbers; .*matrix 3 x 3"):
            read_matrix(str(tmp_path / name), 3, 3)
    with pytest.raises(UserError, match=r"none\.npy: not found"):
        read_matrix(str(tmp_path / "none.npy"), 2, 2)
    (tmp_path / "bad.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"bad\.csv, line 1: 'a' is not a number"):
        read_matrix(str(tmp_path / "bad.csv"), 1, 2)
    np.save(tmp_path / "zero.npy", 0 * matrix)
    with pytest.raises(UserError, match="not all 0"):
        read_matrix(str(tmp_path / "zero.npy"), 2, 3)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"kind": "odd"}, "kind"),
        ({"rank": 0}, "rank"),
        ({"excitatory": 1.0}, "excitatory"),
        ({"chain": 0.6}, "chain"),
        ({"correlation": 2.0}, "correlation"),
        ({"noise": -1.0}, "noise"),
        ({"kind": "from_file"}, "path"),
        ({"kind": "blocks"}, "means"),
        ({"kind": "blocks", "means": [[1.0, 2.0]]}, "means"),
        ({"kind": "blocks", "means": [[1.0]], "probabilities": [[2.0]]}, "probabilities"),
        ({"kind": "blocks", "means": [[1.0]], "fractions": [0.5]}, "fractions"),
        ({"sort": "dale"}, "sort"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        structure_of(options)


def test_dale_needs_two_columns():
    with pytest.raises(UserError, match="two columns or more"):
        made("dale", gaussian(3, 1))
