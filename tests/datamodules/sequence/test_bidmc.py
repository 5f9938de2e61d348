"""BIDMC from its arrays, and simulated recordings."""

import builtins
import sys

import numpy as np
import pytest
import torch
from scipy.signal import find_peaks
from tiny_files import write_bidmc

from datamodules.sequence.bidmc import Bidmc, read_bidmc, simulate
from framework.errors import UserError


@pytest.mark.parametrize(
    ("place", "stems", "join"),
    [
        ("RR/reshuffle", ("train", "valid", "test"), ""),
        ("RR", ("train", "val", "test"), "_"),
        ("", ("train", "val", "test"), ""),
    ],
)
def test_bidmc_arrays(tmp_path, place, stems, join):
    arrays = write_bidmc(tmp_path / place, stems, join)
    data = Bidmc(path=str(tmp_path), target="RR", batch_size=3)
    data.setup()
    assert (data.length, data.d_input) == (40, 2)
    x, y = data.train_set.__getitems__(range(6))
    assert np.allclose(x.numpy(), arrays["train"][0], atol=1e-6)
    assert np.allclose(y.numpy(), arrays["train"][1], atol=1e-5)
    scaled = Bidmc(path=str(tmp_path), target="RR", standardise_target=True)
    scaled.setup()
    z = scaled.train_set.tensors[1]
    assert abs(z.mean()) < 1e-6
    assert torch.allclose(z * scaled.target_std + scaled.target_mean, y, atol=1e-4)
    assert next(iter(data.train_dataloader()))[0].shape == (3, 40, 2)


def test_bidmc_targets_as_text(tmp_path):
    arrays = write_bidmc(tmp_path)
    np.save(tmp_path / "trainy.npy", arrays["train"][1].astype(str))
    assert np.allclose(read_bidmc(tmp_path, "HR")["train"][1], arrays["train"][1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainx", np.zeros((6, 40)), r"trainx.npy: the array has the shape \(6, 40\)"),
        ("trainx", np.full((6, 40, 2), np.nan), "trainx.npy: 480 of 480 values of the array are not finite"),
        ("validy", np.zeros(4), "validy.npy: 4 x 1 targets for 3 recordings"),
        ("testx", np.zeros((3, 41, 2)), "testx.npy: recordings of 41 samples, training has 40"),
        ("testy", np.array(["a", "b", "c"]), "testy.npy: str"),
        ("testy", np.array([{}, 1, 2], dtype=object), "testy.npy: the array holds Python objects"),
    ],
)
def test_bidmc_broken(tmp_path, name, content, message):
    write_bidmc(tmp_path)
    np.save(tmp_path / f"{name}.npy", content, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_bidmc(tmp_path, "HR")


def test_bidmc_missing(tmp_path):
    with pytest.raises(UserError, match=r"HR/original/trainx.npy: not found, nor train_x.npy"):
        read_bidmc(tmp_path, "HR", "original")
    write_bidmc(tmp_path)
    (tmp_path / "testx.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"testx\.npy: cannot be read"):
        read_bidmc(tmp_path, "HR")


def test_simulated_rates_are_exact():
    pytest.importorskip("neurokit2")
    signals, rates = simulate(12, 0)
    assert signals.shape == (12, 4000, 2)
    for signal, (heart, breath) in zip(signals, rates, strict=True):
        peaks, _ = find_peaks(signal[:, 0], height=0.5 * signal[:, 0].max(), distance=40)
        measured = 60 * 125 * (len(peaks) - 1) / (peaks[-1] - peaks[0])
        assert abs(measured - heart) < 0.1
        # The ECG's amplitude follows the breathing; the peak of its spectrum, within the resolution of 32 seconds.
        frequencies = np.arange(5, 30, 0.05)
        level = signal[peaks, 0] - signal[peaks, 0].mean()
        power = np.abs(np.exp(-2j * np.pi * np.outer(frequencies / 60, peaks / 125)) @ level)
        assert abs(frequencies[power.argmax()] - breath) < 0.5
    assert np.array_equal(signals, simulate.__wrapped__(12, 0)[0])


def test_simulated_datamodule():
    pytest.importorskip("neurokit2")
    data = Bidmc(n=20, target="HR", standardise_target=True)
    data.setup()
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [14, 3, 3]
    x, y = data.train_set[0]
    assert (x.shape, x.dtype, y.dtype) == ((4000, 2), torch.float32, torch.float32)


def test_without_neurokit(monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("neurokit2"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "neurokit2", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"modular-framework\[biosignals\]"):
        Bidmc(n=11, seed=5).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "hr"}, "did you mean 'HR'"),
        ({"target": "SpO2"}, "cannot be simulated"),
        ({"variant": "shuffled", "path": "/x"}, "did you mean 'reshuffle'"),
        ({"n": 3}, "n: 3"),
    ],
)
def test_bidmc_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Bidmc(**settings)
