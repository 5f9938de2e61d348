"""Rates of curves whose law is known."""

import numpy as np
import pytest

from modules.dynamics.matrix_sensing.rates import exponential_rate, power_exponent

T = np.arange(1, 200)


def test_an_exponentials_rate_and_a_powers_exponent_are_found():
    assert exponential_rate(T, 3 * np.exp(-0.05 * T)).rate == pytest.approx(0.05)
    assert power_exponent(T, 7 * T**-1.5).rate == pytest.approx(1.5)


def test_the_window_leaves_out_what_is_not_in_it():
    y = np.where(T < 50, 1.0, np.exp(-0.1 * (T - 50)))
    found = exponential_rate(T, y, low=1e-6, high=0.9)
    assert found.rate == pytest.approx(0.1)
    assert found.points == int(((y > 1e-6) & (y < 0.9)).sum())
    assert power_exponent(np.array([0, 1, 2, 4]), [5, 1, 0.5, 0.25]).rate == pytest.approx(1)  # no logarithm of 0
    assert np.isnan(exponential_rate(T, y, high=1e-30).rate)
