"""Condition numbers and log-volumes against float64 singular values."""

import math

import pytest
import torch

from framework.errors import UserError
from framework.functional import spectra
from framework.functional.spectra import condition_numbers, gram_matrix, isotropy_bound, marchenko_pastur


def reference(matrix):
    values = torch.linalg.svdvals(matrix.double())
    n, norm = len(values), float(values.square().sum())
    return float(values[0] / values[-1]), n / 2 * math.log(norm / n) - float(values.log().sum())


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_values(rows, values, dtype=torch.float64):
    n = len(values)
    left, right = torch.linalg.qr(randn(rows, n))[0], torch.linalg.qr(randn(n, n, seed=1))[0]
    return (left * values @ right.T).to(dtype)


@pytest.mark.parametrize("shape", [(64, 32), (33, 77), (1, 5), (5, 1), (300, 200), (180, 200), (640, 170)])
def test_it_equals_the_condition_number_in_float64(shape):
    w = randn(*shape)
    found = condition_numbers({"w": w})["w"]
    assert found.exact == pytest.approx(float(torch.linalg.cond(w)), rel=1e-6)
    assert found.deficit == pytest.approx(reference(w)[1], rel=1e-9, abs=1e-9)
    assert found.shape == shape


@pytest.mark.parametrize("side", [40, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kappa", [1.0, 3.0, 15.0, 100.0, 2e3, 2e4, 1e6])
def test_spectra_of_every_kind_keep_their_accuracy(side, dtype, kappa):
    smooth = torch.logspace(0, -math.log10(kappa), side, dtype=torch.float64)
    outlier, lonely = torch.ones(side, dtype=torch.float64), torch.full((side,), 1 / kappa, dtype=torch.float64)
    outlier[-1], lonely[0] = 1 / kappa, 1.0
    weights = {
        f"{name} {rows}": with_values(rows, values, dtype)
        for name, values in (("smooth", smooth), ("outlier", outlier), ("lonely", lonely))
        for rows in (side, 3 * side)
    }
    for name, found in condition_numbers(weights).items():
        exact, deficit = reference(weights[name])
        assert found.exact == pytest.approx(exact, rel=1e-4), name
        assert found.deficit == pytest.approx(deficit, rel=1e-5, abs=1e-3), name


def test_the_default_is_pefts_formula():
    w = randn(30, 20) * 1e-7
    values = torch.linalg.svdvals(w)
    assert condition_numbers({"w": w})["w"].kappa == pytest.approx(float(values[0] / (values[-1] + 1e-8)), rel=1e-6)


@pytest.mark.parametrize("side", [32, 200])
def test_it_is_invariant_under_scale_transpose_rotation_and_permutation(side):
    w = randn(2 * side, side)
    q = torch.linalg.qr(randn(2 * side, 2 * side, seed=1))[0]
    forms = {"w": w, "scaled": -37.0 * w, "tiny": 1e-20 * w, "t": w.T, "q": q @ w, "p": w[:, torch.randperm(side)]}
    found = condition_numbers(forms)
    for spectrum in found.values():
        assert spectrum.exact == pytest.approx(found["w"].exact, rel=1e-5)
        assert spectrum.deficit == pytest.approx(found["w"].deficit, rel=1e-6)


@pytest.mark.parametrize("side", [8, 200])
def test_diagonal_deficient_and_zero_matrices(side):
    diagonal = torch.diag(torch.arange(1.0, side + 1))
    deficient = randn(side, side)
    deficient[:, 1] = deficient[:, 0]
    found = condition_numbers({"diagonal": diagonal, "deficient": deficient, "zero": torch.zeros(side, side)})
    assert found["diagonal"].exact == pytest.approx(side)
    assert found["deficient"].kappa > 1e7
    assert found["deficient"].exact == math.inf
    assert found["deficient"].deficit == math.inf
    assert found["zero"].kappa == math.inf


def test_an_orthogonal_matrix_has_kappa_one_and_no_deficit():
    for side in (50, 200):
        found = condition_numbers({"q": torch.linalg.qr(randn(side, side))[0]})["q"]
        assert found.exact == pytest.approx(1.0, abs=1e-6)
        assert 0 <= found.deficit < 1e-6


def test_kernels_are_flattened_and_stacks_averaged():
    kernel, stack = randn(16, 8, 3, 3), randn(5, 20, 12)
    found = condition_numbers({"kernel": kernel, "stack": stack})
    assert found["kernel"].exact == pytest.approx(float(torch.linalg.cond(kernel.view(16, 72))), rel=1e-6)
    assert found["stack"].exact == pytest.approx(float(torch.linalg.cond(stack).mean()), rel=1e-6)
    assert (found["stack"].matrices, found["stack"].shape) == (5, (20, 12))


def test_batches_are_split_without_changing_a_result(monkeypatch):
    weights = {str(i): randn(20, 30, seed=i) for i in range(7)}
    whole = condition_numbers(weights)
    monkeypatch.setattr(spectra, "_ENTRIES", 1300)
    assert condition_numbers(weights) == whole
    assert list(whole) == list(weights)


def test_nothing_is_drawn_from_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    condition_numbers({"w": torch.ones(200, 200) + torch.eye(200)})
    assert torch.equal(torch.get_rng_state(), before)


def test_float32_and_the_fast_path_agree_with_all_singular_values():
    """The sizes of a transformer: rectangles from a float32 Gram matrix, squares from a float64 one."""
    for shape in ((384, 1536), (1152, 384), (384, 384)):
        w = 0.02 * randn(*shape, dtype=torch.float32)
        exact, deficit = reference(w)
        found = condition_numbers({"w": w})["w"]
        assert found.exact == pytest.approx(exact, rel=1e-5)
        assert found.deficit == pytest.approx(deficit, rel=1e-5)


def test_the_gram_matrix_is_the_product():
    w = randn(50, 37)
    torch.testing.assert_close(gram_matrix(w), w.T @ w)
    torch.testing.assert_close(gram_matrix(w[:, :2]), w[:, :2].T @ w[:, :2])


def test_marchenko_pastur():
    assert marchenko_pastur(1024, 256) == pytest.approx(3.0, rel=0.01)
    assert marchenko_pastur(256, 1024) == marchenko_pastur(1024, 256)
    assert condition_numbers({"w": randn(1024, 256)})["w"].exact == pytest.approx(3.0, rel=0.1)
    logs = [math.log(condition_numbers({"w": randn(64, 64, seed=seed)})["w"].exact) for seed in range(60)]
    assert math.exp(sum(logs) / len(logs)) == pytest.approx(marchenko_pastur(64, 64), rel=0.4)


def test_the_entropy_bound_is_attained_and_never_exceeded():
    n, norm = 12, 5.0
    for kappa in (1.0, 3.0, 50.0):
        values = torch.full((n,), math.sqrt(norm / n), dtype=torch.float64)
        values[-1] = math.sqrt(2 * norm / (n * (1 + kappa**2)))
        values[0] = kappa * values[-1]
        assert float(values.square().sum()) == pytest.approx(norm)
        found = condition_numbers({"w": with_values(n, values)})["w"]
        assert found.deficit == pytest.approx(-isotropy_bound(kappa), abs=1e-10)
    many = condition_numbers({str(seed): randn(6, 6, seed=seed) for seed in range(1000)})
    assert all(found.deficit >= -isotropy_bound(found.exact) - 1e-10 for found in many.values())


@pytest.mark.parametrize("side", [8, 200])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_entries_that_are_not_finite_are_named(side, value):
    w = torch.randn(side, side)
    w[0, 0] = value
    with pytest.raises(UserError, match=r"'bad\.weight' has entries that are not finite"):
        condition_numbers({"good": torch.eye(side), "bad.weight": w})


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(3, 3, dtype=torch.int64), torch.ones(0, 3)])
def test_what_is_no_matrix_is_refused(weight):
    with pytest.raises(UserError, match="'w' has shape"):
        condition_numbers({"w": weight})
