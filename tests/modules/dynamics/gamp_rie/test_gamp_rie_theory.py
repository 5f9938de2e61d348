"""Spectrum, denoiser and state evolution against reference numbers and draws."""

import numpy as np
import pytest
import torch

from modules.dynamics.gamp_rie.denoiser import denoise, error
from modules.dynamics.gamp_rie.gamp import wishart
from modules.dynamics.gamp_rie.spectrum import density, edges, moment, stieltjes
from modules.dynamics.gamp_rie.state_evolution import curve, mmse, perfect_recovery


def noisy(d, kappa, t, seed=0):
    generator = torch.Generator().manual_seed(seed)
    s = wishart(d, round(kappa * d), generator)
    a = torch.randn(d, d, dtype=torch.float64, generator=generator)
    return s, s + t**0.5 * (a + a.T) / (2 * d) ** 0.5


@pytest.mark.parametrize("kappa", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("t", [0.01, 0.1, 0.6, 3.0])
def test_the_density_has_mass_one(kappa, t):
    assert moment(t, kappa, 1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("t", [0.01, 0.6])
def test_the_transform_outside_the_bulk_is_the_integral(t):
    ends = edges(t, 0.5)
    x = np.array([ends[0] - 0.5, ends[0] - 0.02, ends[-1] + 0.02, ends[-1] + 1])
    if len(ends) == 4:
        x = np.append(x, ends[1:3].mean())
    phi = (np.arange(4000) + 0.5) * np.pi / 4000
    wanted = np.zeros(len(x))
    for low, high in zip(ends[::2], ends[1::2], strict=True):
        y = (low + high) / 2 + (high - low) / 2 * np.cos(phi)
        weight = density(y, t, 0.5) * (high - low) / 2 * np.sin(phi) * np.pi / 4000
        wanted += (weight / (x[:, None] - y)).sum(1)
    found = stieltjes(x, t, 0.5)
    assert np.all(found.imag == 0)
    np.testing.assert_allclose(found.real, wanted, rtol=1e-4)


def test_the_error_of_the_denoiser():
    for t, wanted in ((0.1, 0.070553), (0.6, 0.337778), (1.0, 0.498519)):
        assert error(t, 0.5) == pytest.approx(wanted, abs=2e-6)
    assert error(1e-4, 0.5) / 1e-4 == pytest.approx(0.75, abs=2e-3)
    assert error(1e3, 0.5) == pytest.approx(2, rel=5e-3)


def test_one_draw_is_denoised_as_predicted():
    s, r = noisy(300, 0.5, 0.6)
    assert float((denoise(r, 0.6, 0.5) - s).square().sum()) / 300 == pytest.approx(error(0.6, 0.5), rel=0.03)


def test_eigenvalues_follow_the_density():
    values = np.linalg.eigvalsh(noisy(1000, 0.5, 0.6)[1].numpy())
    ends = edges(0.6, 0.5)
    assert abs(values[0] - ends[0]) < 0.15
    assert abs(values[-1] - ends[-1]) < 0.15
    grid = np.linspace(ends[0], ends[-1], 4000)
    cumulated = np.cumsum(density(grid, 0.6, 0.5)) * (grid[1] - grid[0])
    empirical = np.searchsorted(values, grid) / 1000
    assert np.abs(cumulated - empirical).max() < 0.01


TABLE = {
    0.2: [0.83525, 0.56148, 0.25360, 0],
    0.5: [0.87917, 0.72368, 0.55506, 0.39220, 0.24729, 0.12813, 0.03933, 0, 0],
    1.0: [0.89032, 0.76492, 0.63206, 0.49992, 0.37482, 0.26145, 0.16351, 0.08426, 0.02737],
    2.0: [0.89533, 0.78323, 0.66722, 0.55093, 0.43749, 0.32953, 0.22934, 0.13909, 0.06127],
}


@pytest.mark.parametrize("kappa", TABLE)
def test_the_table_of_optimal_errors(kappa):
    found = [mmse(0.05 * (i + 1), kappa) for i in range(len(TABLE[kappa]))]
    np.testing.assert_allclose(found, TABLE[kappa], atol=1e-4)


def test_the_optimal_error_with_noise():
    found = [mmse(alpha, 0.5, 0.5) for alpha in (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 1)]
    np.testing.assert_allclose(found, [0.76945, 0.51785, 0.41641, 0.33570, 0.22673, 0.16389, 0.06293], atol=1e-4)


def test_perfect_recovery():
    limit = perfect_recovery(0.5)
    assert limit == 0.375
    assert 0 < mmse(limit - 1e-3, 0.5) < 2e-3
    assert mmse(limit + 1e-3, 0.5) == 0
    assert perfect_recovery(3) == 0.5


@pytest.mark.parametrize(("kappa", "noise"), [(0.3, 0.0), (1.0, 0.5)])
def test_the_curve_is_what_the_root_finder_gives(kappa, noise):
    alphas, found = curve(kappa, noise, points=8)
    assert np.all(np.diff(alphas) > 0)
    for alpha, error_there in zip(alphas[2:6], found[2:6], strict=True):
        assert mmse(alpha, kappa, noise) == pytest.approx(error_there, abs=1e-6)
