"""BIDMC32: heart rate, breathing rate or oxygen saturation from 32 seconds of ECG and PPG.

Data: Pimentel et al. 2016; as a regression archive Tan et al. 2021 (arXiv 2012.02974); as arrays for long sequence
models by the preparation script of Gu et al. 2022.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.readers.arrays import check_arrays, check_finite, float32, read_array, real
from framework.settings import at_least, one_of

Target = Literal["HR", "RR", "SpO2"]
Variant = Literal["reshuffle", "original"]
TARGETS: tuple[Target, ...] = get_args(Target)
RATE = 125  # Hz
LENGTH = 4000
_PARTS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}


@lru_cache(maxsize=2)
def simulate(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ECG and PPG of known heart and breathing rates, by NeuroKit2's simulators.

    Beats are perfectly regular, so the rates are exact. Breathing modulates the amplitude of both signals and the
    baseline of the PPG; phases are random, and white noise is added.

    Args:
        n: Number of recordings.
        seed: Seed of all recordings.

    Returns:
        float32 of shape ``(n, 4000, 2)`` (ECG, PPG), and float64 ``(n, 2)``: beats and breaths per minute.

    Raises:
        UserError: NeuroKit2 is not installed.
    """
    try:
        import neurokit2 as nk
    except ImportError as error:
        raise UserError(
            "path: none given, and the simulator needs neurokit2: pip install 'modular-framework[biosignals]'"
        ) from error
    generator = np.random.default_rng(seed)
    rates = np.stack([generator.uniform(50, 120, n), generator.uniform(8, 24, n)], 1)
    signals = np.empty((n, LENGTH, 2), np.float32)
    seconds = LENGTH / RATE
    for row, (heart, breath) in enumerate(rates):
        # The simulator fits whole beats into the length, so the length must be a multiple of a beat.
        beats = math.ceil(seconds * heart / 60) + 2
        length = round(beats * 60 / heart * RATE)
        ecg = nk.ecg_simulate(
            duration=(beats + 1e-6) * 60 / heart,
            length=length,
            sampling_rate=RATE,
            heart_rate=heart,
            noise=0,
            method="simple",
        )
        ppg = nk.ppg_simulate(
            duration=math.ceil(length / RATE) + 1,
            sampling_rate=RATE,
            heart_rate=heart,
            frequency_modulation=0,
            ibi_randomness=0,
            motion_amplitude=0,
            powerline_amplitude=0,
            random_state=0,
        )
        start = generator.integers(0, length - LENGTH + 1)
        time = np.arange(LENGTH) / RATE
        breathing = np.sin(2 * np.pi * (breath / 60 * time + generator.random()))
        signals[row, :, 0] = np.asarray(ecg)[start : start + LENGTH] * (1 + 0.15 * breathing)
        signals[row, :, 1] = np.asarray(ppg)[start : start + LENGTH] * (1 + 0.2 * breathing) + 0.1 * breathing
    signals += 0.02 * generator.standard_normal(signals.shape, np.float32)
    return signals, rates


def _find(folders: list[Path], stems: tuple[str, ...], letter: str) -> Path:
    names = [f"{stem}{join}{letter}.npy" for stem in stems for join in ("", "_")]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise UserError(
        f"{folders[0] / names[0]}: not found, nor {', '.join(names[1:])}, nor any of them in "
        f"{', '.join(map(str, folders[1:]))}"
    )


def _targets(file: Path, recordings: int) -> np.ndarray:
    """Reads the targets (n,), float64; the archive's reader may have written them as text."""
    y = read_array(file, "numbers of shape (n,)")
    if y.dtype.kind in "US":
        try:
            y = y.astype(np.float64)
        except ValueError as error:
            raise UserError(f"{file}: {y.dtype.name} of shape {y.shape}; numbers of shape (n,) expected") from error
    y = real(y, "the array", file).reshape(len(y) if y.ndim else 1, -1)
    if y.shape != (recordings, 1):
        raise UserError(f"{file}: {y.shape[0]} x {y.shape[1]} targets for {recordings} recordings")
    check_finite(y, "the array", file)
    return float32(y[:, 0], "the array", file)


def read_bidmc(
    path: str | Path, target: Target, variant: Variant = "reshuffle"
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads ``<path>/<target>/<variant>/{train,valid,test}{x,y}.npy``.

    ``val`` is accepted for ``valid``, and ``train_x.npy`` for ``trainx.npy``; the files may also be in
    ``<path>/<target>`` or in ``path`` itself.

    Args:
        path: The folder.
        target: ``HR``, ``RR`` or ``SpO2``.
        variant: ``reshuffle`` or ``original``: how the preparation script split the recordings.

    Returns:
        For ``train``, ``val``, ``test``: float32 ``(n, L, 2)`` and float32 ``(n,)``.

    Raises:
        UserError: a file is missing or broken, or an array has another shape or values that are not finite.
    """
    root = Path(path).expanduser()
    folders = [root / target / variant, root / target, root]
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for part, stems in _PARTS.items():
        x_file, y_file = _find(folders, stems, "x"), _find(folders, stems, "y")
        expected = f"numbers of shape (n, {LENGTH}, 2)"
        x = read_array(x_file, expected, np.float64)
        check_arrays({"the array": x}, {"the array": "n length 2"}, x_file, expected)
        if x.shape[2] != 2:
            raise UserError(f"{x_file}: the array has the shape {x.shape}; expected {expected}")
        if "train" in parts and x.shape[1] != parts["train"][0].shape[1]:
            raise UserError(f"{x_file}: recordings of {x.shape[1]} samples, training has {parts['train'][0].shape[1]}")
        parts[part] = (float32(x, "the array", x_file), _targets(y_file, len(x)))
    return parts


class Bidmc(DataModule):
    """BIDMC32 from its arrays, or simulated recordings with exact rates.

    Batches are ``(x, y)``: ``x`` float32 ``(B, length, 2)`` (ECG and PPG at 125 Hz, as they are in the files); ``y``
    float32 ``(B,)``: beats per minute, breaths per minute, or per cent.

    Reads: ``.npy`` arrays of finite numbers. Without a path: simulated ECG and PPG (``pip install .[biosignals]``).

    Args:
        path: Folder with ``<target>/<variant>/{train,valid,test}{x,y}.npy``, the layout of the S4 authors' script
            (see :func:`read_bidmc` for what else is accepted); by default recordings are simulated (install the extra
            ``biosignals``), for ``HR`` and ``RR``: a simulated PPG has no oxygen saturation.
        target: ``HR``, ``RR`` or ``SpO2``.
        variant: ``reshuffle`` (recordings shuffled between the parts, as in the S4 papers) or ``original``.
        standardise_target: Whether ``y`` has mean 0 and deviation 1 over the training part; multiply by ``target_std``
            and add ``target_mean`` to invert this.
        n: Simulated recordings, 70 % of them for training, 15 % each for validation and test.
        seed: Seed of the simulation.
        batch_size: Recordings in a training batch, per process.
        eval_batch_size: Recordings in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest here, because the data is in memory.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        length: Number of samples in a recording, 4,000 (in files, as found by ``setup``).
        d_input: 2.
        d_output: 1.
        target_mean: Mean of the training targets (after ``setup``).
        target_std: Their standard deviation (after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); NeuroKit2 or a file is missing, or a file broken (in
            ``setup``).
    """

    d_input = 2
    d_output = 1

    def __init__(
        self,
        path: str | Path | None = None,
        target: Target = "RR",
        variant: Variant = "reshuffle",
        standardise_target: bool = False,
        n: int = 240,
        seed: int = 0,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        one_of(TARGETS, target=target)
        one_of(get_args(Variant), variant=variant)
        if path is None and target == "SpO2":
            raise UserError("target: 'SpO2' cannot be simulated from one PPG; give path, or choose HR or RR")
        at_least(10, n=n)
        self.path, self.target, self.variant, self.n, self.seed = path, target, variant, n, seed
        self.standardise_target = standardise_target
        self.length = LENGTH
        self.target_mean, self.target_std = 0.0, 1.0
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, simulating {n} recordings with NeuroKit2")

    def setup(self, stage: str | None = None) -> None:
        """Reads or simulates the recordings, once."""
        if self.train_set is not None:
            return
        parts = self._simulated() if self.path is None else read_bidmc(self.path, self.target, self.variant)
        self.length = parts["train"][0].shape[1]
        y = parts["train"][1].astype(np.float64)
        self.target_mean, self.target_std = float(y.mean()), max(float(y.std()), 1e-8)
        self.train_set, self.val_set, self.test_set = (self._dataset(*parts[name]) for name in _PARTS)

    def _dataset(self, x: np.ndarray, y: np.ndarray) -> ArrayDataset:
        if self.standardise_target:
            y = ((y - self.target_mean) / self.target_std).astype(np.float32)
        return ArrayDataset(torch.from_numpy(x), torch.from_numpy(y))

    def _simulated(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        signals, rates = simulate(self.n, self.seed)
        y = rates[:, TARGETS.index(self.target)].astype(np.float32)
        ends = [0, round(0.7 * self.n), round(0.85 * self.n), self.n]
        return {name: (signals[a:b], y[a:b]) for name, a, b in zip(_PARTS, ends[:-1], ends[1:], strict=True)}
