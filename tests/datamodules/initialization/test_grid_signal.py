"""Signals on grids: the files that they come from, their coordinates, and how they are handed out."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from datamodules.initialization.audio import AudioSignal, made_clip
from datamodules.initialization.band_noise import BandNoise
from datamodules.initialization.field import FieldSignal
from datamodules.initialization.grid_signal import Repeated
from datamodules.initialization.image import ImageSignal
from framework.data.arrays import WholeBatch
from framework.errors import UserError
from framework.functional.spectral_centroid import grid_coordinates, spectral_centroid
from framework.protocols import HasTargetSignal

WAVE = 0.8 * np.sin(np.arange(200) * 0.7) + 0.1


def ready(data):
    data.setup()
    return data


# coordinates


def test_coordinates_include_both_ends_row_by_row():
    x = grid_coordinates([3, 5])
    expected = [[i, j] for i in np.linspace(-1, 1, 3) for j in np.linspace(-1, 1, 5)]
    np.testing.assert_allclose(x, expected, atol=1e-7)
    assert torch.equal(grid_coordinates([1, 2]), torch.tensor([[0.0, -1.0], [0.0, 1.0]]))


# audio


def pcm24(values, rate=8000):
    ints = np.round(values * (2**23 - 1)).astype(np.int32)
    data = b"".join(int(v).to_bytes(3, "little", signed=True) for v in ints)
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate * 3, 3, 24)
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("uint8", 2e-2), ("int16", 1e-4), ("int24", 1e-6), ("int32", 1e-6), ("float32", 1e-6)]
)
def test_every_wav_gives_the_same_signal(kind, tolerance, tmp_path):
    path = tmp_path / "clip.wav"
    if kind == "int24":
        path.write_bytes(pcm24(WAVE))
    elif kind == "uint8":
        wavfile.write(path, 8000, np.round(128 + 127 * WAVE).astype(np.uint8))
    elif kind == "float32":
        wavfile.write(path, 8000, WAVE.astype(np.float32))
    else:
        wavfile.write(path, 8000, np.round(WAVE * np.iinfo(kind).max).astype(kind))
    data = ready(AudioSignal(str(path)))
    assert data.sample_rate == 8000
    np.testing.assert_allclose(data.target_signal()[:, 0], WAVE / np.abs(WAVE).max(), atol=tolerance)
    assert float(data.target_signal().abs().max()) == 1


def test_channels_are_averaged_and_long_clips_cut(tmp_path):
    stereo = np.stack([WAVE, np.zeros(200)], 1)
    wavfile.write(tmp_path / "a.wav", 100, stereo)
    data = ready(AudioSignal(str(tmp_path), max_samples=50))
    np.testing.assert_allclose(data.target_signal()[:, 0], WAVE[:50] / np.abs(WAVE[:50]).max(), atol=1e-6)


def test_a_folder_of_clips_asks_for_one(tmp_path):
    for name in ("tap", "bach"):
        wavfile.write(tmp_path / f"{name}.wav", 100, WAVE)
    assert ready(AudioSignal(str(tmp_path), clip="tap")).target_signal().shape == (200, 1)
    with pytest.raises(UserError, match=r"clip: None is not accepted, .* holds several: bach, tap"):
        ready(AudioSignal(str(tmp_path)))
    with pytest.raises(UserError, match=r"clip: 'relay' is not in .*; there are: bach, tap"):
        ready(AudioSignal(str(tmp_path), clip="relay"))


def test_broken_and_missing_audio_is_named(tmp_path):
    with pytest.raises(UserError, match=r"path: nowhere.wav is not there; a file \(.wav\)"):
        ready(AudioSignal("nowhere.wav"))
    (tmp_path / "text.wav").write_text("no sound in here at all")
    with pytest.raises(UserError, match=r"text.wav: cannot be read as .wav"):
        ready(AudioSignal(str(tmp_path / "text.wav")))
    wavfile.write(tmp_path / "whole.wav", 100, np.arange(1, 500, dtype=np.int16))
    content = (tmp_path / "whole.wav").read_bytes()
    for length in (6, 10, 30, 42, 700):
        (tmp_path / "cut.wav").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut.wav: cannot be read as .wav"):
            ready(AudioSignal(str(tmp_path / "cut.wav")))
    wavfile.write(tmp_path / "none.wav", 100, np.zeros(0, np.int16))
    with pytest.raises(UserError, match=r"none.wav: (has no samples|cannot be read)"):
        ready(AudioSignal(str(tmp_path / "none.wav")))
    wavfile.write(tmp_path / "silent.wav", 100, np.zeros(10, np.int16))
    with pytest.raises(UserError, match=r"silent.wav: all values are zero"):
        ready(AudioSignal(str(tmp_path / "silent.wav")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder .*empty holds no file .wav"):
        ready(AudioSignal(str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"clip: 'tap' is not accepted without a path"):
        AudioSignal(clip="tap")


def test_without_a_path_a_clip_is_made_and_said_so(caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        data = ready(AudioSignal(max_samples=3000))
    assert "no path given, using a synthesised clip" in caplog.text
    np.testing.assert_allclose(made_clip(3000), made_clip(3000))
    assert 0.1 < spectral_centroid(data.target_signal()) < 0.9


# pictures


def test_the_default_picture_is_scikit_images_camera():
    from skimage import data as shipped

    y = ready(ImageSignal()).target_signal()
    assert y.shape == (512, 512, 1)
    np.testing.assert_allclose(y[..., 0], shipped.camera() / 127.5 - 1, atol=1e-6)
    y = ready(ImageSignal(picture="astronaut")).target_signal()
    np.testing.assert_allclose(y, shipped.astronaut() / 127.5 - 1, atol=1e-6)


def test_a_picture_is_cut_to_a_square_and_averaged_down(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    whole = ready(ImageSignal(str(tmp_path / "a.png"))).target_signal()
    np.testing.assert_allclose(whole[..., 0], pixels / 127.5 - 1, atol=1e-6)
    small = ready(ImageSignal(str(tmp_path), size=4, channels=3)).target_signal()
    means = pixels[:, 2:10].reshape(4, 2, 4, 2).mean((1, 3)) / 127.5 - 1
    for channel in range(3):
        np.testing.assert_allclose(small[..., channel], means, atol=1e-5)


def test_deep_and_transparent_and_coloured_pictures(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    y = ready(ImageSignal(str(tmp_path / "deep.png"))).target_signal()
    np.testing.assert_allclose(y[..., 0], deep / 32767.5 - 1, atol=1e-5)
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    Image.fromarray(colours, "RGBA").save(tmp_path / "clear.png")
    y = ready(ImageSignal(str(tmp_path / "clear.png"))).target_signal()
    share = colours[..., 3:] / 255  # the rest of the light is white
    np.testing.assert_allclose(y, (colours[..., :3] * share + 255 * (1 - share)) / 127.5 - 1, atol=0.01)
    assert ready(ImageSignal(str(tmp_path / "clear.png"), channels=1)).target_signal().shape == (5, 6, 1)


def test_broken_and_missing_pictures_are_named(tmp_path):
    with pytest.raises(UserError, match=r"picture: 'kamera' is not in .*; there are: .*camera"):
        ready(ImageSignal(picture="kamera"))
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"text.png: not a picture"):
        ready(ImageSignal(str(tmp_path / "text.png")))
    whole = tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"half.png: cannot be decoded as a picture"):
        ready(ImageSignal(str(whole)))
    with pytest.raises(UserError, match="channels: 2 is not one of 1, 3"):
        ImageSignal(channels=2)


# fields


def test_fields_have_their_grid_and_their_channels(tmp_path):
    values = np.random.default_rng(0).standard_normal((4, 5, 6, 3))
    np.save(tmp_path / "flow.npy", values)
    y = ready(FieldSignal(str(tmp_path), channels_last=True)).target_signal()
    np.testing.assert_allclose(y, values / np.abs(values).max(), atol=1e-6)
    assert ready(FieldSignal(str(tmp_path / "flow.npy"))).target_signal().shape == (4, 5, 6, 3, 1)


def test_what_is_no_field_is_named(tmp_path):
    np.save(tmp_path / "complex.npy", np.ones(3, complex))
    with pytest.raises(UserError, match=r"complex.npy: the array holds complex128; real numbers"):
        ready(FieldSignal(str(tmp_path / "complex.npy")))
    np.savez(tmp_path / "several.npz", a=np.ones(3))
    with pytest.raises(UserError, match=r"several.npz: an .npz with a"):
        ready(FieldSignal(str(tmp_path / "several.npz")))
    np.save(tmp_path / "empty.npy", np.ones((0, 4)))
    with pytest.raises(UserError, match=r"empty.npy: the array has the shape \(0, 4\), which holds no numbers"):
        ready(FieldSignal(str(tmp_path / "empty.npy")))
    np.save(tmp_path / "number.npy", np.array(1.0))
    with pytest.raises(UserError, match=r"number.npy: the array has the shape \(\)"):
        ready(FieldSignal(str(tmp_path / "number.npy")))
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"object.npy: the array holds Python objects"):
        ready(FieldSignal(str(tmp_path / "object.npy")))
    (tmp_path / "text.npy").write_text("text")
    with pytest.raises(UserError, match=r"text.npy: cannot be read as .npz or .npy"):
        ready(FieldSignal(str(tmp_path / "text.npy")))
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    with pytest.raises(UserError, match=r"nan.npy: 1 of 2 values of the array are not finite"):
        ready(FieldSignal(str(tmp_path / "nan.npy")))
    np.save(tmp_path / "line.npy", np.ones(4))
    with pytest.raises(UserError, match=r"array has the shape \(4,\)"):
        ready(FieldSignal(str(tmp_path / "line.npy"), channels_last=True))


# synthetic


@pytest.mark.parametrize("waveform", ["noise", "chirp", "clicks"])
@pytest.mark.parametrize(("low", "high"), [(0.6, 0.9), (0.005, 0.05)])
def test_its_energy_lies_in_its_band(waveform, low, high):
    y = ready(BandNoise(2048, low, high, waveform)).target_signal()[:, 0]
    power = np.abs(np.fft.rfft(y.double())) ** 2
    bins = np.arange(1025) / 1024
    inside = power[(bins >= low - 0.001) & (bins <= high + 0.001)].sum() / power.sum()
    assert inside > (0.9 if waveform == "chirp" else 1 - 1e-9)
    assert float(y.abs().max()) == pytest.approx(1, abs=0.02)


def test_noise_has_the_centroid_of_its_band_and_follows_its_seed():
    one, two = (ready(BandNoise(seed=seed)).target_signal() for seed in (0, 1))
    assert spectral_centroid(one) == pytest.approx(0.75, abs=0.01)
    assert not torch.equal(one, two)
    assert torch.equal(one, ready(BandNoise()).target_signal())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 3}, "samples: 3"),
        ({"low": 0.9, "high": 0.6}, "high: 0.6 is not accepted; above 0.9"),
        ({"waveform": "saw"}, "waveform: 'saw' is not one of noise, chirp, clicks"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"holdout": 1.0}, "holdout: 1.0"),
        ({"passes": 0}, "passes: 0"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        BandNoise(**settings)


# how it is handed out


def test_a_step_on_everything_gets_the_tensors_themselves():
    data = ready(BandNoise(100, passes=3))
    assert isinstance(data, HasTargetSignal)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert all(batch is data.train_set.batch for batch in batches)
    assert isinstance(data.train_set, WholeBatch)
    (x, y, held), *rest = data.val_dataloader()
    assert not rest
    assert torch.equal(y.reshape(data.target_signal().shape), data.target_signal())
    assert torch.equal(x, grid_coordinates([100]))
    assert not held.any()


def test_batches_are_a_permutation_of_every_pass():
    data = ready(BandNoise(100, batch_size=32, passes=2))
    assert isinstance(data.train_set, Repeated)
    batches = list(data.train_dataloader())
    assert [len(x) for x, _ in batches] == [32] * 6 + [8]
    x = torch.cat([x for x, _ in batches])[:, 0]
    assert torch.equal(x.sort().values, grid_coordinates([100])[:, 0].repeat_interleave(2))
    assert not torch.equal(x, x.sort().values)


def test_held_out_samples_are_not_trained_on():
    data = ready(BandNoise(100, holdout=0.3, holdout_seed=1))
    ((x, _),) = data.train_dataloader()
    whole, _, held = data.test_set.tensors
    assert int(held.sum()) == 30
    assert torch.equal(x, whole[~held])
    other = ready(BandNoise(100, holdout=0.3, holdout_seed=2))
    assert not torch.equal(other.test_set.tensors[2], held)
    with pytest.raises(UserError, match=r"holdout: 0.999 is not accepted, it leaves no"):
        ready(BandNoise(100, holdout=0.999))


def test_the_target_is_known_after_setup():
    with pytest.raises(UserError, match="call setup"):
        BandNoise().target_signal()
