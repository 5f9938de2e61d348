"""Closed forms of growth and tightness, and the linear autoencoder's bounds."""

import math

import pytest
import torch

from modules.robustness.ibp.theory import (
    Autoencoder,
    expected_tightness,
    growth,
    orthonormal,
    projection_radius,
    train_autoencoder,
)


def test_expected_tightness():
    assert expected_tightness(1) == pytest.approx(1)
    assert expected_tightness(2) == pytest.approx(math.pi / 4)
    assert expected_tightness(64) == pytest.approx(0.156054, abs=1e-6)
    assert expected_tightness(64, 2) == pytest.approx(0.156054 * math.pi / 4, abs=1e-6)
    assert expected_tightness(10**6) == pytest.approx(math.sqrt(math.pi / 2e6), rel=1e-4)


def test_growth_is_one_at_the_ibp_initialisation():
    assert growth(1000, math.sqrt(2 * math.pi) / 1000) == pytest.approx(1)
    assert growth(1000, math.sqrt(2 / 1000)) == pytest.approx(math.sqrt(1000 / math.pi))


def test_a_random_projection_has_the_expected_half_widths():
    generator = torch.Generator().manual_seed(0)
    basis = orthonormal(100, 40, generator)
    torch.testing.assert_close(basis.T @ basis, torch.eye(40, dtype=torch.float64))
    both = Autoencoder(basis.T, basis)
    layerwise, exact = projection_radius(100, 40)
    assert float(both.layerwise.mean()) == pytest.approx(layerwise, rel=0.02)
    assert float(both.exact.mean()) == pytest.approx(exact, rel=0.02)
    assert both.tightness == pytest.approx(exact / layerwise, rel=0.03)


def test_training_lowers_the_worst_error_in_boxes():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64) @ orthonormal(8, 4, generator).T

    def worst(model, eps):
        error = (x @ model.encoder.T @ model.decoder.T - x).abs() + eps * model.layerwise
        return float(error.norm(dim=1).mean())

    start, bounds, plain = (
        train_autoencoder(x, 6, eps, torch.Generator().manual_seed(1), steps=steps, ramp=10)
        for eps, steps in ((0.1, 0), (0.1, 60), (0.0, 60))
    )
    assert worst(bounds, 0.1) < worst(start, 0.1)
    assert worst(bounds, 0.1) < worst(plain, 0.1)
    assert worst(plain, 0.0) < worst(bounds, 0.0)
    assert (bounds.exact <= bounds.layerwise + 1e-12).all()
