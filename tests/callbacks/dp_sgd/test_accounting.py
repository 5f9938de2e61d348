"""ε and σ against other programs, against a bound written here, and against closed forms."""

from __future__ import annotations

import logging
import math
import sys

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from callbacks.dp_sgd import accounting
from callbacks.dp_sgd.accounting import epsilon_of, noise_multiplier_for, steps_within
from framework.errors import UserError

RATE, STEPS, DELTA = 0.032, 465, 2.5e-4


def renyi(sigma: float, rate: float, steps: int, delta: float) -> float:
    """ε of the Rényi divergence at integer orders: Mironov, Talwar & Zhang, arXiv 1908.10530, with arXiv 2004.00010's
    conversion.
    """
    best = math.inf
    for order in range(2, 257):
        terms = [
            math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            + (order - k) * math.log1p(-rate) + k * math.log(rate) + k * (k - 1) / (2 * sigma**2)
            for k in range(order + 1)
        ]  # fmt: skip
        top = max(terms)
        divergence = (top + math.log(sum(math.exp(t - top) for t in terms))) / (order - 1)
        converted = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        best = min(best, steps * divergence + converted)
    return best


@pytest.mark.parametrize(("epsilon", "accountant"), [(0.5, "prv"), (2.0, "rdp"), (8.0, "prv")])
def test_noise_for_a_budget(epsilon, accountant):
    sigma = noise_multiplier_for(epsilon, DELTA, RATE, STEPS, accountant)
    spent = epsilon_of([(sigma, RATE, STEPS)], DELTA, accountant)
    assert 0.99 * epsilon < spent <= epsilon
    bound = brentq(lambda s: renyi(s, RATE, STEPS, DELTA) - epsilon, 0.4, 20.0)
    assert 0.90 <= sigma / bound <= 1.005


@pytest.mark.parametrize(
    ("sigma", "tight", "renyi"), [(0.701, 7.905, 9.229), (1.372, 1.970, 2.238), (3.98, 0.480, 0.549)]
)
def test_values_of_dp_accounting(sigma, tight, renyi):
    """Which dp-accounting 0.6.0 gave for them: privacy loss distributions, and RDP."""
    history = [(sigma, RATE, STEPS)]
    assert -0.001 <= epsilon_of(history, DELTA) - tight <= 0.02
    assert epsilon_of(history, DELTA, "rdp") == pytest.approx(renyi, rel=0.01)


def test_equal_to_dp_accounting():
    reason = "dp-accounting asks for attrs < 24 and is installed without its dependencies, if at all"
    dp = pytest.importorskip("dp_accounting", reason=reason)
    from dp_accounting import pld, rdp

    for sigma, rate, steps, delta in ((0.8, 0.02, 300, 1e-4), (1.2, 0.1, 100, 1e-5), (5.0, 0.5, 40, 1e-6)):
        event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), steps)
        exact = pld.PLDAccountant().compose(event).get_epsilon(delta)
        assert -0.001 <= epsilon_of([(sigma, rate, steps)], delta) - exact <= 0.02
        renyi = rdp.RdpAccountant().compose(event).get_epsilon(delta)
        assert epsilon_of([(sigma, rate, steps)], delta, "rdp") == pytest.approx(renyi, rel=0.02)


@pytest.mark.parametrize("steps", [1, 16])
def test_without_sampling_it_is_the_gaussian_mechanism(steps):
    """δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), with μ = √steps/σ; arXiv 1805.06530."""
    sigma, delta = 4.0, 1e-5
    mu = math.sqrt(steps) / sigma
    exact = brentq(lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0.0, 50.0)
    assert 0 <= epsilon_of([(sigma, 1.0, steps)], delta) - exact <= 0.02


def test_segments_compose():
    whole = epsilon_of([(1.0, 0.05, 100)], 1e-5)
    assert epsilon_of([(1.0, 0.05, 60), (1.0, 0.05, 40)], 1e-5) == pytest.approx(whole, abs=0.01)
    assert epsilon_of([(1.0, 0.05, 100), (2.0, 0.05, 50)], 1e-5) > whole


def test_the_ends():
    assert epsilon_of([], 1e-5) == epsilon_of([(1.0, 0.1, 0)], 1e-5) == 0
    assert epsilon_of([(1.0, 0.1, 5), (0.0, 0.1, 1)], 1e-5) == math.inf
    huge = epsilon_of([(0.1, 0.1, 1000)], 1e-5)  # nothing is computed on a grid of that size
    assert 1000 < huge < math.inf


def test_steps_within_a_budget():
    steps = steps_within(1.0, 1e-5, 2.0, 0.05, 1000, accountant="rdp")
    assert 20 < steps < 1000
    assert epsilon_of([(2.0, 0.05, steps)], 1e-5, "rdp") <= 1.0 < epsilon_of([(2.0, 0.05, steps + 1)], 1e-5, "rdp")
    assert steps_within(1.0, 1e-5, 2.0, 0.05, 1000, [(2.0, 0.05, 5)], "rdp") == steps - 5
    assert steps_within(1.0, 1e-5, 2.0, 0.05, 50) == 50
    assert steps_within(1e-3, 1e-5, 1.0, 0.05, 20) == 0


def test_what_is_refused():
    with pytest.raises(UserError, match="no noise is enough"):
        noise_multiplier_for(1e-12, 1e-5, 0.5, 10**9, "rdp")
    with pytest.raises(UserError, match="delta: 0 is not accepted"):
        epsilon_of([(1.0, 0.1, 1)], 0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    accounting._accountants.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'modular-framework\[privacy\]'"):
        epsilon_of([(1.0, 0.1, 2)], 1e-5)
    accounting._accountants.cache_clear()


def test_the_root_logger_stays_as_it_is():
    before = list(logging.getLogger().handlers), logging.getLogger().level
    accounting._accountants.cache_clear()
    epsilon_of([(1.0, 0.1, 3)], 1e-5)
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
