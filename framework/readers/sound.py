"""Sound of the user: WAV files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from framework.errors import UserError
from framework.readers.arrays import check_finite
from framework.readers.unpacking import refuse_missing

LOUDEST = 16.0
"""Floats may be louder than full scale, but not by more: those are whole numbers in another type."""


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    """Returns the sample rate in Hz and the samples (N, channels), float64, full scale at 1.

    Reads PCM of 8, 16, 24 and 32 bits, whose full scale is that of their type, and float of 32 and 64, as it is.

    Args:
        path: The file.

    Raises:
        UserError: it is missing, truncated or broken, of another coding, has no samples, or NaN or infinite ones.
    """
    from scipy.io import wavfile

    refuse_missing(path, "a .wav file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # about metadata chunks, which are ignored
            warnings.filterwarnings("error", "Reached EOF prematurely", wavfile.WavFileWarning)  # a truncated file
            rate, samples = wavfile.read(path)
    except wavfile.WavFileWarning as error:
        raise UserError(
            f"{path}: cannot be read as .wav, it is truncated, or was written to a pipe, which leaves its length out; "
            "convert it to a file again"
        ) from error
    except Exception as error:  # a damaged header can raise nearly any
        what = "it has no format or no samples" if isinstance(error, UnboundLocalError) else error
        raise UserError(f"{path}: cannot be read as .wav (PCM or float): {what}") from error
    if not samples.size:
        raise UserError(f"{path}: has no samples")
    check_finite(samples, "the sound", path)
    values = samples.astype(np.float64).reshape(len(samples), -1)
    if samples.dtype == np.uint8:
        values = (values - 128) / 128
    elif samples.dtype.kind == "i":
        values /= -float(np.iinfo(samples.dtype).min)
    elif np.abs(values).max() > LOUDEST:
        raise UserError(f"{path}: floats up to {np.abs(values).max():.4g}; full scale is 1")
    return int(rate), values
