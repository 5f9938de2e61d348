"""Temperature scaling and calibration errors, against slow references."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn

from callbacks.temperature_scaling import fold_temperature
from framework.functional.calibration import LIMITS, calibration, fit_temperature, reliability


def overconfident(rows=400, classes=4, factor=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return factor * logits, labels


def by_adam(logits, labels, rate=1e-3, most=100_000, patience=10):
    """The paper's recipe: Adam on T from 1, until the loss has not fallen for ten steps."""
    t = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([t], lr=rate)
    best, waited = math.inf, 0
    for _ in range(most):
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.double() / t, labels)
        loss.backward()
        optimizer.step()
        value = float(loss.detach())
        waited = 0 if value < best else waited + 1
        best = min(best, value)
        if waited >= patience:
            break
    return float(t)


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_the_temperature_is_the_optimum(factor):
    """Check 7."""
    logits, labels = overconfident(factor=factor)
    t = fit_temperature(logits, labels)

    def loss(value):
        return float(F.cross_entropy(logits.double() / value, labels))

    found = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8})
    assert t == pytest.approx(found.x, abs=1e-3)
    assert t == pytest.approx(factor, rel=0.15)
    assert loss(t) < loss(1.0)
    assert torch.equal((logits / t).argmax(-1), logits.argmax(-1))


def test_it_is_where_the_papers_recipe_ends():
    logits, labels = overconfident(100, factor=1.2)
    assert by_adam(logits, labels) == pytest.approx(fit_temperature(logits, labels), abs=1e-3)


def test_scaling_the_head_is_the_same():
    torch.manual_seed(0)
    head, x = nn.Linear(5, 3), torch.randn(7, 5)
    with torch.no_grad():
        expected = head(x) / 2.7
        fold_temperature(head, 2.7)
        torch.testing.assert_close(head(x), expected, atol=1e-6, rtol=1e-6)


def test_without_an_optimum_it_stays_in_its_limits():
    labels = torch.arange(3).repeat(4)
    logits = F.one_hot(labels).float()
    assert LIMITS[0] <= fit_temperature(logits, labels) < 0.1  # all right: sharper is always better
    assert 10 < fit_temperature(logits, (labels + 1) % 3) <= LIMITS[1]


def test_calibration_errors_bin_by_bin():
    logits, labels = overconfident()
    for t, bins in ((1.0, 15), (3.0, 15), (3.0, 4)):
        probabilities = (logits.double() / t).softmax(-1)
        gaps, shares, rows = [], [], reliability(logits, labels, t, bins)
        for number in range(bins):
            low, high = number / bins, (number + 1) / bins
            inside = [
                (float(p.max()), int(p.argmax()) == int(y))
                for p, y in zip(probabilities, labels, strict=True)
                if low < float(p.max()) <= high
            ]
            if not inside:
                assert rows[number, 0] == 0
                assert rows[number, 1].isnan()
                continue
            confidence, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            gaps.append(abs(confidence - right)), shares.append(len(inside) / len(labels))
            assert rows[number].tolist() == pytest.approx([shares[-1], confidence, right])
        found = calibration(logits, labels, t, bins)
        assert found.mce == pytest.approx(max(gaps), abs=1e-5)
        assert found.ece == pytest.approx(sum(g * s for g, s in zip(gaps, shares, strict=True)), abs=1e-5)
        assert found.nll == pytest.approx(float(F.cross_entropy(logits.double() / t, labels)))
