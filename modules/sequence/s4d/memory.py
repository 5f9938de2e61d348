"""Measures how much of the past input the state of a frozen diagonal SSM contains, without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, lfilter


def band_limited_noise(samples: int, seed: int = 0, cutoff: float = 0.05, taps: int = 201) -> NDArray:
    """Gaussian noise of unit variance below a frequency.

    Args:
        samples: Number of samples.
        seed: Seed of the draw.
        cutoff: The frequency, as a share of Nyquist's.
        taps: Length of the filter, in samples.

    Returns:
        (samples,), float64.
    """
    noise = lfilter(firwin(taps, cutoff), 1.0, np.random.default_rng(seed).standard_normal(samples))
    return noise / noise.std()


def run_modes(modes: NDArray, u: NDArray, dt: float) -> NDArray:
    """Returns the states of ``x' = A x + u`` under ZOH, as real features [Re x, Im x].

    Args:
        modes: A (M,) complex.
        u: (samples,).
        dt: Step size.

    Returns:
        (samples, 2 M).
    """
    a = np.exp(dt * modes)
    small = np.abs(modes) < 1e-12
    b = np.where(small, dt, np.expm1(dt * modes) / np.where(small, 1.0, modes))
    states = np.stack([lfilter([gain], [1.0, -pole], u) for pole, gain in zip(a, b, strict=True)], axis=1)
    return np.concatenate([states.real, states.imag], axis=1)


def memory_r2(
    modes: NDArray,
    delays: Sequence[int],
    *,
    dt: float = 1 / 256,
    samples: int = 20_000,
    seed: int = 0,
    ridge: float = 1e-8,
) -> NDArray:
    """R² of the best linear prediction of ``u_{k-d}`` from the state, on samples that were not used for the fit.

    The input is :func:`band_limited_noise`; a ridge regression (``ridge`` times the mean diagonal of the Gram matrix)
    is fitted to samples 5 % … 70 % and scored on the rest.

    Args:
        modes: A (M,), complex.
        delays: Delays in samples.
        dt: Δ.
        samples: Number of input samples.
        seed: Seed of the noise.
        ridge: Relative strength of the regression's penalty.

    Returns:
        (len(delays),).
    """
    u = band_limited_noise(samples, seed)
    x = run_modes(np.asarray(modes, dtype=np.complex128), u, dt)
    split = int(0.7 * samples)
    start = max(samples // 20, *delays) if len(delays) else samples // 20
    targets = np.stack([np.roll(u, delay) for delay in delays], axis=1)
    fit_x, fit_y = x[start:split], targets[start:split]
    gram = fit_x.T @ fit_x
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, fit_x.T @ fit_y)
    error = targets[split:] - x[split:] @ weights
    return 1 - error.var(axis=0) / targets[split:].var(axis=0)
