"""Speech Commands in its on-disk format, and a synthetic stand-in."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from tiny_files import write_speech

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
    with pytest.raises(UserError, match=r"validation_list\.txt: not found"):
        SpeechCommands(path=str(tmp_path)).setup()
    write_speech(tmp_path)
    file = tmp_path / "bed" / "0_nohash_0.wav"
    for content, message in ((b"RIFF", "cannot be read as .wav"), (b"", "0_nohash_0.wav: cannot be read")):
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
