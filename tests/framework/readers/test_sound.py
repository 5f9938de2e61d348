"""WAV files: every coding on one scale."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import wavfile

from framework.errors import UserError
from framework.readers.sound import read_wav

WAVE = np.array([-1.0, -0.5, 0.0, 0.5])


@pytest.mark.parametrize(
    "samples",
    [
        (WAVE * 128 + 128).astype(np.uint8),
        (WAVE * 2**15).astype(np.int16),
        (WAVE * 2**31).astype(np.int32),
        WAVE.astype(np.float32),
        WAVE,
    ],
)
def test_full_scale_is_1(tmp_path, samples):
    wavfile.write(tmp_path / "a.wav", 8_000, samples)
    rate, found = read_wav(tmp_path / "a.wav")
    assert rate == 8_000
    np.testing.assert_array_equal(found, WAVE[:, None])
    wavfile.write(tmp_path / "b.wav", 8_000, np.stack([samples, samples], 1))
    assert read_wav(tmp_path / "b.wav")[1].shape == (4, 2)


def test_what_cannot_be_read(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8_000, np.arange(100, dtype=np.int16))
    whole = (tmp_path / "a.wav").read_bytes()
    for content, message in (
        (b"", "cannot be read as .wav"),
        (whole[:-50], "cannot be read as .wav"),
        (whole[:20], "cannot be read as .wav"),
    ):
        (tmp_path / "b.wav").write_bytes(content)
        with pytest.raises(UserError, match=rf"b\.wav: {message}"):
            read_wav(tmp_path / "b.wav")
    wavfile.write(tmp_path / "c.wav", 8_000, np.array([0.0, np.nan], np.float32))
    with pytest.raises(UserError, match=r"c\.wav: 1 of 2 values of the sound are not finite"):
        read_wav(tmp_path / "c.wav")
    with pytest.raises(UserError, match=r"d\.wav: not found; expected a \.wav file"):
        read_wav(tmp_path / "d.wav")


def test_lengths_and_floats_that_are_not_meant(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8_000, np.arange(100, dtype=np.int16))
    whole = bytearray((tmp_path / "a.wav").read_bytes())
    place = whole.index(b"data") + 4
    whole[4:8] = whole[place : place + 4] = b"\xff\xff\xff\xff"  # ffmpeg to a pipe
    (tmp_path / "a.wav").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.wav: .* was written to a pipe, .*; convert it to a file again"):
        read_wav(tmp_path / "a.wav")
    wavfile.write(tmp_path / "b.wav", 8_000, np.array([0, 20_000], np.float32))
    with pytest.raises(UserError, match=r"b\.wav: floats up to 2e\+04; full scale is 1"):
        read_wav(tmp_path / "b.wav")
    for content in (whole[:22] + b"\0\0" + whole[24:], whole[:12] + b"xxxx" + whole[16:]):
        (tmp_path / "c.wav").write_bytes(content)
        with pytest.raises(UserError, match=r"c\.wav: cannot be read as \.wav"):
            read_wav(tmp_path / "c.wav")
