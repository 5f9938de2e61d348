"""Frozen features: encoders, files, the drawn samples and their scale, and the mixture of the simulation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_files import write_feature_tables, write_features_npz, write_idx
from torch import nn

from datamodules.finetuning.encoded_images import EncoderConfig, ImageConfig
from datamodules.finetuning.feature_files import read_features, write_features
from datamodules.finetuning.frozen_features import FrozenFeatures
from datamodules.finetuning.gaussian_mixture import GaussianMixture
from datamodules.finetuning.small_encoder import SmallEncoder, train_small_encoder
from framework.errors import UserError


class Halves(nn.Module):
    """An encoder with weights."""

    def __init__(self, width=3):
        super().__init__()
        self.inner = nn.Linear(64, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.inner(x.flatten(1)).relu())


HERE = f"{__name__}.Halves"


def test_only_the_drawn_samples_set_the_scale():
    data = FrozenFeatures("digits", encoder=EncoderConfig("pixels"), samples=40, seed=3)
    data.setup()
    data.setup()
    x, y = data.train_set.tensors
    assert x.shape == (40, 64)
    assert len(y.unique()) == 10
    low, high = x.aminmax(dim=0)
    assert (low == 0).all()
    assert set(high.tolist()) <= {0.0, 1.0}
    assert data.test_set.tensors[0].max() > 1  # not clipped
    raw = FrozenFeatures("digits", encoder=EncoderConfig("pixels"), samples=40, seed=3, scale=False)
    raw.setup()
    width = raw.train_set.tensors[0].amax(0) - raw.train_set.tensors[0].amin(0)
    width[width == 0] = 1
    torch.testing.assert_close(
        data.val_set.tensors[0], (raw.val_set.tensors[0] - raw.train_set.tensors[0].amin(0)) / width
    )
    assert len(data.pool[1]) == 1438
    assert len(data.val_set) == 144
    assert (data.num_classes, data.features) == (10, 64)
    other = FrozenFeatures("digits", encoder=EncoderConfig("pixels"), samples=40, seed=4)
    other.setup()
    assert not torch.equal(other.train_set.tensors[1], y)


def test_the_small_network_is_trained_on_images_that_serve_for_nothing_else(monkeypatch):
    from datamodules.finetuning import encoded_images

    seen = []
    train = encoded_images.train_small_encoder
    monkeypatch.setattr(encoded_images, "train_small_encoder", lambda x, *a, **k: seen.append(x) or train(x, *a, **k))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    given = {"encoder": EncoderConfig(samples=500, epochs=8), "images": ImageConfig(16)}
    data = FrozenFeatures("digits", **given)
    data.setup()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(seen[0]) == 500
    assert len(data.pool[1]) == 1438 - 500
    assert data.pool[0].shape[1] == 128
    assert (data.pool[0] >= 0).all()  # after the ReLU
    # supervised features are good ones: the nearest class mean tells the digits apart
    x, y = data.pool
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    assert (torch.cdist(data.outside[0], means).argmin(1) == data.outside[1]).double().mean() > 0.85
    again = FrozenFeatures("digits", **given)
    again.setup()
    assert torch.equal(again.pool[0], x)
    foreign = FrozenFeatures("digits", None, EncoderConfig(source="digits", epochs=1), ImageConfig(16))
    foreign.setup()
    assert len(foreign.pool[1]) == 1438


def test_a_small_encoder_learns():
    x = torch.zeros(40, 1, 12, 12)
    y = torch.arange(40) % 2
    x[y == 1, :, 3:6] = 1
    net = train_small_encoder(x, y, 2, epochs=10, batch_size=8)
    assert isinstance(net, SmallEncoder)
    assert (net(x).argmax(1) == y).all()


def test_a_class_its_layer_and_its_weights(tmp_path):
    torch.manual_seed(0)
    net = Halves()
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "w.pt")
    halves = EncoderConfig(HERE, weights=str(tmp_path / "w.pt"))
    plain = {"images": ImageConfig(mean=[0.0], std=[1.0]), "scale": False}
    data = FrozenFeatures("digits", encoder=halves, **plain)
    data.setup()
    pixels = FrozenFeatures("digits", encoder=EncoderConfig("pixels"), images=ImageConfig(mean=[0.0], std=[1.0]))
    pixels.setup()
    assert float(pixels.pool[0].max()) == 1
    with torch.no_grad():
        torch.testing.assert_close(data.pool[0], net.inner(pixels.pool[0]).relu())
        named = FrozenFeatures("digits", encoder=replace(halves, layer="inner"), **plain)
        named.setup()
        torch.testing.assert_close(named.pool[0], net.inner(pixels.pool[0]))
    with pytest.raises(UserError, match="layer: 'outer' names nothing"):
        FrozenFeatures("digits", encoder=EncoderConfig(HERE, layer="outer")).setup()
    with pytest.raises(UserError, match=r"w.pt does not fit: inner.weight: 3x64 in the file, 4x64 in the model"):
        FrozenFeatures("digits", encoder=replace(halves, args={"width": 4}), **plain).setup()
    with pytest.raises(UserError, match="refused its arguments"):
        FrozenFeatures("digits", encoder=EncoderConfig(HERE, args={"depth": 4})).setup()


def test_a_model_of_timm_gives_what_its_classifier_gets():
    given = {"channels": [4, 4, 8, 8], "stem_width": 4}
    encoder, images = EncoderConfig("timm:resnet10t", args=given), ImageConfig(32, max_train=100, max_test=20)
    data = FrozenFeatures("digits", encoder=encoder, images=images)
    data.setup()
    assert data.pool[0].shape == (100, 8)
    assert data.outside[0].shape == (20, 8)
    with pytest.raises(UserError, match="timm has no model 'resnet10x'; nearest: resnet10t"):
        FrozenFeatures("digits", encoder=EncoderConfig("timm:resnet10x")).setup()


def test_a_checkpoint_of_ours(tmp_path):
    from framework.runs.experiment import build

    quiet = ["--wandb.mode=disabled", f"--run.root={tmp_path}", "--run.name=a", "--trainer.max_epochs=1"]
    quiet += [
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.limit_train_batches=2",
    ]
    experiment = build("vision/image_classifier_digits", overrides=quiet)
    experiment.fit()
    images = ImageConfig(experiment.datamodule.image_size, max_test=30)
    data = FrozenFeatures("digits", encoder=EncoderConfig(str(experiment.folder)), images=images)
    data.setup()
    model = experiment.model.eval()
    seen = []
    layers = [m for m in model.modules() if any(p.ndim > 1 for p in m.parameters(recurse=False))]
    layers[-1].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    pixels = FrozenFeatures("digits", encoder=EncoderConfig("pixels"), images=images)
    pixels.setup()
    side = experiment.datamodule.image_size
    with torch.no_grad():
        model(pixels.outside[0].view(-1, 1, side, side))
    torch.testing.assert_close(data.outside[0], seen[0].flatten(1), rtol=1e-4, atol=1e-4)


def test_features_from_files(tmp_path):
    arrays = write_features_npz(tmp_path / "f.npz")
    data = FrozenFeatures("features", path=str(tmp_path / "f.npz"), num_classes=4, features=5)
    data.setup()
    torch.testing.assert_close(data.pool[0], torch.from_numpy(arrays["X_train"]).float())
    tables = write_feature_tables(tmp_path / "tables")
    found = read_features(tmp_path / "tables")
    np.testing.assert_allclose(found["X_test"], tables["test"][:, :-1], rtol=1e-6)
    assert (found["y_train"] == tables["train"][:, -1]).all()
    write_features(tmp_path / "again.npz", found, "resnet")
    again = read_features(tmp_path / "again.npz")
    assert all((again[part] == found[part]).all() for part in found)
    with np.load(tmp_path / "again.npz") as file:
        assert str(file["backbone"]) == "resnet"
        assert int(file["dim"]) == 5


def test_the_cache_is_written_once_and_read(tmp_path):
    write_idx(tmp_path / "idx", n_train=80)
    cache = tmp_path / "cache" / "f.npz"
    given = {"source": "idx", "path": str(tmp_path / "idx"), "encoder": {"name": "pixels"}, "cache": str(cache)}
    first = FrozenFeatures(**given)
    first.setup()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").unlink()  # nothing is computed again
    second = FrozenFeatures(**given)
    second.setup()
    assert torch.equal(first.pool[0], second.pool[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"X_test": None}, "lacks X_test"),
        ({"y_train": np.zeros(3)}, "shape"),
        ({"y_train": np.full(40, 0.5)}, "whole numbers from 0"),
        ({"X_train": np.full((40, 5), np.nan)}, "not finite"),
        ({"X_train": np.zeros((40, 4))}, "X_test has the shape"),
    ],
)
def test_bad_files_are_named(change, said, tmp_path):
    arrays = write_features_npz(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", **{k: v for k, v in {**arrays, **change}.items() if v is not None})
    with pytest.raises(UserError, match=said) as error:
        read_features(tmp_path / "f.npz")
    assert "f.npz" in str(error.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.npz: not found; expected an .npz with X_train"):
        FrozenFeatures("features", path=str(tmp_path / "nowhere.npz")).setup()
    (tmp_path / "f.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match="cannot be read"):
        read_features(tmp_path / "f.npz")
    (tmp_path / "tables").mkdir()
    with pytest.raises(UserError, match=r"train.npy: not found"):
        read_features(tmp_path / "tables")
    np.save(tmp_path / "tables" / "train.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"not \(N, n\+1\)"):
        read_features(tmp_path / "tables")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "mnist"}, "source: 'mnist' is not one of"),
        ({"source": "features"}, "path: source 'features' needs one"),
        ({"source": "idx"}, "needs one"),
        ({"source": "digits", "val_fraction": 0.0}, "val_fraction"),
        ({"source": "digits", "samples": 0}, "samples: 0"),
        ({"source": "digits", "encoder": {"name": "pixels", "source": "digits"}}, "is not trained here"),
        ({"source": "digits", "encoder": {"source": "idx"}}, "needs one"),
    ],
)
def test_settings_are_refused_at_once(given, said):
    with pytest.raises(UserError, match=said):
        FrozenFeatures(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_classes": 9, "encoder": {"name": "pixels"}}, r"num_classes: 9 was given, the data has 10"),
        ({"features": 9, "encoder": {"name": "pixels"}}, r"features: 9 was given, the data has 64"),
        ({"samples": 5, "encoder": {"name": "pixels"}}, "samples: 5 is not accepted; from 10"),
        ({"encoder": {"name": "resnet"}}, "encoder: 'resnet' is not accepted"),
        ({"encoder": {"name": "nowhere.ckpt"}}, "nowhere.ckpt"),
        ({"encoder": {"samples": 1438}, "images": {"size": 16}}, "encoder.samples: 1438 is not accepted; at most 1437"),
        ({"images": {"size": 16}}, "encoder.samples: 1500"),
        ({"encoder": {"samples": 100}}, "images.size: 8 is too small"),
    ],
)
def test_what_does_not_fit_is_refused_in_setup(given, said):
    with pytest.raises(UserError, match=said):
        FrozenFeatures("digits", **given).setup()


def test_the_mixture():
    data = GaussianMixture(3, 10, samples=12, test_samples=300)
    data.setup()
    x, y = data.train_set.tensors
    assert x.shape == (12, 10)
    assert x.dtype == torch.float64
    assert len(y.unique()) == 3
    assert torch.bincount(data.test_set.tensors[1]).tolist() == [100] * 3
    whole = GaussianMixture(2, 10)
    whole.setup()
    assert len(whole.train_set) == 1000
    with pytest.raises(UserError, match="dimension: 7"):
        GaussianMixture(2, 7)
    with pytest.raises(UserError, match="test_samples: 1"):
        GaussianMixture(2, 10, test_samples=1)
