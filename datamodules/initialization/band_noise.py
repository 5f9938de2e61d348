"""Synthetic signals in a band of frequencies: noise, sweeps, clicks."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.initialization.grid_signal import GridSignal
from framework.settings import above, at_least, between, one_of

Waveform = Literal["noise", "chirp", "clicks"]


def band_noise(samples: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Noise (samples,) whose spectrum is complex Gaussian on rfft's bins from ``low`` to ``high``, zero elsewhere.

    Args:
        samples: N.
        low: First frequency, as a fraction of Nyquist's.
        high: Last one.
        seed: Seed of the noise.

    Returns:
        (samples,), divided by the largest magnitude.
    """
    rng = np.random.default_rng(seed)
    bins = _bins(samples, low, high)
    spectrum = np.zeros(samples // 2 + 1, dtype=complex)
    spectrum[bins] = rng.standard_normal(bins.size) + 1j * rng.standard_normal(bins.size)
    y = np.fft.irfft(spectrum, samples)
    return y / np.abs(y).max()


def chirp(samples: int, low: float, high: float) -> np.ndarray:
    """Returns a linear sweep.

    Args:
        samples: N.
        low: First frequency, as a fraction of Nyquist's.
        high: Last one.

    Returns:
        (N,), from -1 to 1.
    """
    t = np.arange(samples)
    return np.cos(np.pi * (low * t + 0.5 * (high - low) * t**2 / samples))


def clicks(samples: int, low: float, high: float, seed: int = 0, count: int = 16) -> np.ndarray:
    """Impulses at random places, limited to a band, divided by the largest magnitude.

    Args:
        samples: N.
        low: First frequency, as a fraction of Nyquist's.
        high: Last one.
        seed: Seed of the places.
        count: Number of impulses, at most N.

    Returns:
        (N,).
    """
    y = np.zeros(samples)
    y[np.random.default_rng(seed).choice(samples, min(count, samples), replace=False)] = 1
    spectrum, bins = np.fft.rfft(y), _bins(samples, low, high)
    kept = np.zeros_like(spectrum)
    kept[bins] = spectrum[bins]
    y = np.fft.irfft(kept, samples)
    return y / np.abs(y).max()


def _bins(samples: int, low: float, high: float) -> np.ndarray:
    """Bins from ``low`` to ``high`` times N/2, both included; never bin 0 alone, whose irfft is constant."""
    first, last = round(low * samples / 2), round(high * samples / 2)
    return np.arange(first, max(last, 1) + 1)


class BandNoise(GridSignal):
    """A synthetic signal in a band of frequencies.

    Reads: nothing; it is generated: noise in a band, a chirp, clicks.

    Args:
        samples: N.
        low: Lower end of the band, as a fraction of Nyquist's frequency.
        high: Upper end.
        waveform: ``noise``, ``chirp`` (a sweep through the band) or ``clicks`` (impulses limited to it).
        seed: Seed of noise and clicks.
        batch_size: Number of samples in a training batch, per process; by default all of them, up to 512².
        eval_batch_size: The same for evaluation.
        holdout: Share of the samples, drawn at random, that are not trained on.
        holdout_seed: Seed of the choice of these samples.
        passes: Number of passes over the signal in an epoch.
        num_workers: Loader processes; 0 is fastest.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        samples: int = 2048,
        low: float = 0.6,
        high: float = 0.9,
        waveform: Waveform = "noise",
        seed: int = 0,
        batch_size: int | None = None,
        eval_batch_size: int | None = None,
        holdout: float = 0.0,
        holdout_seed: int = 0,
        passes: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, holdout, holdout_seed, passes, num_workers)
        at_least(4, samples=samples)
        between(0, 1, low=low, high=high)
        above({"low": low}, high=high)
        one_of(get_args(Waveform), waveform=waveform)
        self.samples, self.low, self.high, self.waveform, self.seed = samples, low, high, waveform, seed

    def load(self) -> Tensor:
        """Returns (N, 1)."""
        if self.waveform == "chirp":
            values = chirp(self.samples, self.low, self.high)
        else:
            make = band_noise if self.waveform == "noise" else clicks
            values = make(self.samples, self.low, self.high, self.seed)
        return torch.from_numpy(values[:, None]).float()
