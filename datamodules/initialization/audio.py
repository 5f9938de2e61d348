"""Audio clips, (N, 1): a .wav file, or a synthesised clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.initialization.grid_signal import GridSignal, find_file, normalised
from framework.errors import UserError
from framework.readers.sound import read_wav
from framework.settings import at_least


def made_clip(samples: int, rate: int = 44_100) -> np.ndarray:
    """Returns a deterministic clip (samples,): decaying clicks, a sweep from 0.3 to 15 kHz, and hiss between them."""
    rng = np.random.default_rng(0)
    t = np.arange(samples) / rate
    length = max(samples / rate, 1e-3)
    low, high = 300.0, 15_000.0
    sweep = 0.3 * np.sin(2 * np.pi * low * length / np.log(high / low) * ((high / low) ** (t / length) - 1))
    clip = sweep + 0.05 * rng.standard_normal(samples) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * t))
    for start in np.sort(rng.uniform(0, 0.95 * length, 12)):
        ring, after = rng.uniform(2_000, 12_000), np.maximum(t - start, 0)
        clip += (t >= start) * np.exp(-after * rng.uniform(40, 400)) * np.sin(2 * np.pi * ring * after)
    return clip


class AudioSignal(GridSignal):
    """An audio clip as one signal in time, divided by its largest magnitude.

    Reads: ``.wav`` (PCM of 8 to 32 bits, float), channels averaged. Without a path: a generated clip.

    Args:
        path: A .wav file, or a folder of them; without one a synthesised clip.
        clip: Name of the file in a folder, without ``.wav``.
        max_samples: Largest number of samples, taken from the start.
        batch_size: Number of samples in a training batch, per process; by default all of them, up to 512².
        eval_batch_size: The same for evaluation.
        holdout: Share of the samples, drawn at random, that are not trained on.
        holdout_seed: Seed of the choice of these samples.
        passes: Number of passes over the signal in an epoch.
        num_workers: Loader processes; 0 is fastest.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing, broken or silent (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        clip: str | None = None,
        max_samples: int = 150_000,
        batch_size: int | None = None,
        eval_batch_size: int | None = None,
        holdout: float = 0.0,
        holdout_seed: int = 0,
        passes: int = 1,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, holdout, holdout_seed, passes, num_workers)
        at_least(2, max_samples=max_samples)
        if path is None and clip is not None:
            raise UserError(f"clip: {clip!r} is not accepted without a path; give the folder of the .wav files")
        self.path, self.clip, self.max_samples = path, clip, max_samples
        if path is None:
            rank_zero_info(
                "AudioSignal: no path given, using a synthesised clip (clicks, a sweep and hiss at 44.1 kHz)"
            )

    def load(self) -> Tensor:
        """Returns (N, 1)."""
        if self.path is None:
            self.sample_rate, values = 44_100, made_clip(self.max_samples)
            where = "the synthesised clip"
        else:
            file = find_file(self.path, (".wav",), self.clip, "clip")
            self.sample_rate, channels = read_wav(file)
            values = channels.mean(1)
            where = f"path: {file}"
        return normalised(torch.from_numpy(values[: self.max_samples, None]), where)
