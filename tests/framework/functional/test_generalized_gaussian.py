"""The generalised Gaussian against scipy's and against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from framework.errors import UserError
from framework.functional import generalized_gaussian as gg

SHAPES = (0.5, 1.0, 2.0, 3.0)


@pytest.mark.parametrize("shape", [0.3, *SHAPES, 7.5])
def test_moments_density_and_entropy_are_scipys(shape):
    oracle = stats.gennorm(shape, scale=0.7)
    assert gg.variance(0.7, shape) == pytest.approx(oracle.var(), rel=1e-10)
    assert gg.entropy(0.7, shape) == pytest.approx(oracle.entropy(), rel=1e-10)
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    torch.testing.assert_close(gg.log_density(x, 0.7, shape, 0.2), torch.from_numpy(oracle.logpdf(x.numpy() - 0.2)))
    torch.testing.assert_close(gg.density(x, 0.7, shape), torch.from_numpy(oracle.pdf(x.numpy())))
    assert gg.variance(gg.scale_of_std(0.02, shape), shape) == pytest.approx(0.02**2, rel=1e-12)


@pytest.mark.parametrize(("shape", "value"), [(0.5, 10 / 3), (1, 2), (2, math.pi / 2)])
def test_the_ratio_has_its_closed_values(shape, value):
    assert abs(gg.ratio(shape) - value) < 1e-12
    mean_absolute = stats.gengamma(1 / shape, shape).mean()  # |w| for α = 1
    assert gg.ratio(shape) == pytest.approx(gg.variance(1, shape) / mean_absolute**2)


def test_the_ratio_falls_to_that_of_the_uniform_distribution():
    assert gg.ratio(0.1) == pytest.approx(216.827, abs=1e-3)
    assert gg.ratio(3) == pytest.approx(1.46100, abs=1e-5)
    assert gg.ratio(1e6) == pytest.approx(4 / 3, abs=1e-5)
    shapes, ratios = gg.shape_table()
    assert len(shapes) == 291
    assert shapes[0] == 0.1
    assert shapes[-1] == 3
    assert (ratios.diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_are_of_the_distribution(shape, dtype):
    w = gg.sample((400, 500), shape, std=0.05, seed=3, dtype=dtype)
    assert w.dtype == dtype
    alpha = gg.scale_of_std(0.05, shape)
    assert stats.kstest(w.flatten().numpy(), stats.gennorm(shape, scale=alpha).cdf).pvalue > 0.01
    assert float(w.double().std()) == pytest.approx(0.05, rel=0.03 if shape < 1 else 0.01)
    assert abs(float((w > 0).double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(w.numel())
    # neighbours and halves are independent
    flat = w.flatten().double()
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(flat[: len(flat) // 2].abs(), flat[len(flat) // 2 :].abs())[0, 1]) < 0.015


@pytest.mark.parametrize("shape", [0.5, 0.7, 1.0, 2.0])
def test_samples_depend_on_the_seed_alone(shape):
    torch.manual_seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = gg.sample((300, 500), shape, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(gg.sample((300, 500), shape, seed=1), first)
    assert not torch.equal(gg.sample((300, 500), shape, seed=2), first)
    assert not torch.equal(gg.sample((300, 500), shape, seed=[1, 5]), first)


def test_other_types_and_layouts_get_the_same_samples():
    alpha = gg.scale_of_std(0.3, 0.8)
    first = gg.fill_(torch.empty(6, 5), 0.8, alpha, 4)
    assert torch.equal(gg.fill_(torch.empty(6, 5, dtype=torch.bfloat16), 0.8, alpha, 4), first.bfloat16())
    assert torch.equal(gg.fill_(torch.empty(6, 5, dtype=torch.float16), 0.8, alpha, 4), first.half())
    assert torch.equal(gg.fill_(torch.empty(5, 6).T, 0.8, alpha, 4), first)
    parameter = torch.nn.Parameter(torch.zeros(6, 5))
    gg.fill_(parameter, 0.8, alpha, 4)
    assert torch.equal(parameter, first)
    assert parameter.requires_grad
    assert gg.fill_(torch.empty(3, device="meta"), 0.8, alpha, 4).is_meta


@pytest.mark.parametrize("shape", [0.5, 0.8, 1.0, 1.5, 2.0, 2.5])
def test_the_estimator_finds_the_shape_of_scipys_samples(shape):
    rng = np.random.default_rng(0)
    # scipy's own sampler, by inverse gamma: independent of ours
    w = torch.from_numpy(stats.gennorm.rvs(shape, scale=0.02, size=1_000_000, random_state=rng))
    found = gg.fit(w)
    assert abs(found.shape - shape) <= 0.01 + 1e-9
    assert found.count == 1_000_000
    assert found.std == pytest.approx(float(w.square().mean().sqrt()), rel=1e-12)
    assert found.alpha == pytest.approx(0.02, rel=0.05)
    assert not found.saturated
    for factor in (1e-12, 0.3, 7.0, 1e15):
        assert gg.fit(w * factor).shape == found.shape


def test_the_estimate_is_the_nearest_entry_by_a_plain_search():
    w = gg.sample((10_000,), 1.3, seed=0)
    x = w.double().numpy()
    target = len(x) * (x**2).sum() / np.abs(x).sum() ** 2
    grid = np.arange(10, 301) / 100
    rho = [math.gamma(1 / v) * math.gamma(3 / v) / math.gamma(2 / v) ** 2 for v in grid]
    assert gg.fit(w).shape == pytest.approx(grid[np.argmin(np.abs(target - np.array(rho)))])
    scipys = stats.gennorm.fit(x, floc=0)[0]  # maximum likelihood
    assert gg.fit(w).shape == pytest.approx(scipys, abs=0.08)


def test_several_tensors_are_one_sample():
    w = gg.sample((1000, 301), 1.0, std=0.1)
    whole = gg.moments(w)
    parts = gg.moments([w[:300], w[300:].T, torch.zeros(0)])
    assert parts.count == whole.count
    assert parts.absolute == pytest.approx(whole.absolute, rel=1e-12)
    assert parts.square == pytest.approx(whole.square, rel=1e-12)
    assert gg.fit(parts).shape == gg.fit(w).shape
    mixture = gg.fit([gg.sample((100_000,), 2.0, std=1.0), gg.sample((100_000,), 2.0, std=0.1)])
    assert mixture.shape < 1.2  # two normals of different scale look heavy-tailed


def test_the_table_has_ends():
    assert gg.fit(torch.ones(100)).shape == 3.0
    assert gg.fit(torch.ones(100)).saturated
    spike = torch.zeros(100_000)
    spike[0] = 1
    assert gg.fit(spike).shape == 0.1
    assert gg.fit(spike).saturated
    assert math.isnan(gg.fit(torch.zeros(5)).shape)
    assert math.isnan(gg.fit([]).std)


@pytest.mark.parametrize("shape", [0.0, -1.0, math.inf, math.nan])
def test_a_shape_that_none_has_is_refused(shape):
    with pytest.raises(UserError, match=r"shape: .* is not accepted; above 0"):
        gg.sample((2,), shape)
