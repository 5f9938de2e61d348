"""Speech Commands and BIDMC in their on-disk formats, and their simulated stand-ins."""

import builtins
import sys

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.signal import find_peaks
from tiny_files import write_bidmc, write_speech

from datamodules.sequence.bidmc import Bidmc, read_bidmc, simulate
from datamodules.sequence.speech import SpeechCommands, synthetic_words
from framework.errors import UserError


def test_speech_folder(tmp_path):
    write_speech(tmp_path)
    data = SpeechCommands(path=str(tmp_path), num_classes=3, batch_size=4)
    data.setup()
    assert data.class_names == ("bed", "cat", "dog")
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [12, 3, 3]
    x, y = data.train_set.__getitems__([0, 4, 8])
    assert (x.shape, x.dtype, y.tolist()) == ((3, 16_000, 1), torch.float32, [0, 1, 2])
    raw = wavfile.read(tmp_path / "bed" / "0_nohash_0.wav")[1]
    assert np.array_equal(x[0, :12_000, 0].numpy(), raw.astype(np.float32) / 32768)
    assert (x[0, 12_000:] == 0).all()
    assert x.abs().max() <= 1
    raw = wavfile.read(tmp_path / "cat" / "2_nohash_0.wav")[1]
    assert np.array_equal(data.test_set[1][0][:, 0].numpy(), raw[:16_000].astype(np.float32) / 32768)
    half = SpeechCommands(path=str(tmp_path), rate=2)
    half.setup()
    assert half.length == 8_000
    assert torch.equal(half.train_set[0][0], x[0, ::2])
    assert next(iter(half.train_dataloader()))[0].shape == (12, 8_000, 1)


def test_speech_chosen_words(tmp_path):
    write_speech(tmp_path)
    data = SpeechCommands(path=str(tmp_path), words=("dog", "bed"))
    data.setup()
    assert data.class_names == ("dog", "bed")
    assert len(data.test_set) == 2
    with pytest.raises(UserError, match=r"'dig' is not in .*nearest: 'dog'"):
        SpeechCommands(path=str(tmp_path), words=("dig",)).setup()


def test_speech_broken(tmp_path):
    with pytest.raises(UserError, match=r"validation_list\.txt: cannot be read"):
        SpeechCommands(path=str(tmp_path)).setup()
    write_speech(tmp_path)
    file = tmp_path / "bed" / "0_nohash_0.wav"
    for content, message in ((b"RIFF", "not a WAV file"), (b"", "0_nohash_0.wav: not a WAV file")):
        file.write_bytes(content)
        data = SpeechCommands(path=str(tmp_path))
        data.setup()
        with pytest.raises(UserError, match=message):
            data.train_set[0]
    wavfile.write(file, 8_000, np.zeros(100, np.int16))
    with pytest.raises(UserError, match="sampled at 8000 Hz"):
        data.train_set[0]
    wavfile.write(file, 16_000, np.zeros((100, 2), np.int16))
    with pytest.raises(UserError, match="2 channels"):
        data.train_set[0]
    (tmp_path / "testing_list.txt").write_text("bed/2_nohash_0.wav\nbed/99.wav\n")
    with pytest.raises(UserError, match=r"testing_list.txt, line 2: 'bed/99.wav' is not a file"):
        SpeechCommands(path=str(tmp_path)).setup()
    (tmp_path / "testing_list.txt").write_text("\n")
    with pytest.raises(UserError, match="no file is left for test"):
        SpeechCommands(path=str(tmp_path)).setup()
    with pytest.raises(UserError, match="rate: 3"):
        SpeechCommands(rate=3)
    (tmp_path / "testing_list.txt").write_text("bed/2_nohash_0.wav\n")
    with pytest.raises(UserError, match="num_classes: 35 declared"):
        SpeechCommands(path=str(tmp_path), num_classes=35).setup()


def test_synthetic_words():
    data = SpeechCommands(synthetic_per_word=20)
    data.setup()
    assert data.num_classes == 8
    assert all(name.startswith("synthetic_") for name in data.class_names)
    assert [len(s) for s in (data.train_set, data.val_set, data.test_set)] == [112, 16, 32]
    assert data.test_set.labels.bincount().tolist() == [4] * 8
    x, _ = data.train_set.__getitems__(range(112))
    assert x.shape == (112, 16_000, 1)
    power = torch.fft.rfft(x[..., 0]).abs().square().mean(0)
    assert power[3000:].sum() < 0.05 * power.sum()  # half the rate loses nothing
    assert np.array_equal(synthetic_words(10, 3).images, synthetic_words.__wrapped__(10, 3).images)


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
        ("trainx", np.zeros((6, 40)), r"trainx.npy: float64 of shape \(6, 40\)"),
        ("trainx", np.full((6, 40, 2), np.nan), "trainx.npy: 480 of 480 values are not finite"),
        ("validy", np.zeros(4), "validy.npy: 4 x 1 targets for 3 recordings"),
        ("testx", np.zeros((3, 41, 2)), "testx.npy: recordings of 41 samples, training has 40"),
        ("testy", np.array(["a", "b", "c"]), "testy.npy: str"),
        ("testy", np.array([{}, 1, 2], dtype=object), "testy.npy: not an array that numpy can read without pickle"),
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
    with pytest.raises(UserError, match=r"testx\.npy: not an array"):
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
        ({"target": "hr"}, "nearest: HR"),
        ({"target": "SpO2"}, "cannot be simulated"),
        ({"variant": "shuffled", "path": "/x"}, "nearest: reshuffle"),
        ({"n": 3}, "n: 3"),
    ],
)
def test_bidmc_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Bidmc(**settings)
