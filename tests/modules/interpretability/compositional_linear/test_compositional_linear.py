"""The probes of all concepts on trained and frozen encoders, kept embeddings, and the survey of encoders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import framework
from datamodules.interpretability.factor_embeddings import FactorEmbeddings
from datamodules.interpretability.factor_images import FactorImages
from framework.errors import UserError
from modules.interpretability.compositional_linear import CompositionalLinear, ConvEncoder, ImageEncoderConfig
from modules.interpretability.compositional_linear.embeddings import cache_key, embeddings, weights_hash
from modules.interpretability.compositional_linear.encoders import build_encoder, embeddings_of, open_encoder
from modules.interpretability.compositional_linear.survey import main, table_of

SMALL = {"scale": 2, "orientation": 2, "posX": 2, "posY": 2}
RESNET = {"channels": [4, 4, 4, 4], "stem_width": 4, "layers": [1, 1, 1, 1]}


def small_data(**settings):
    data = FactorImages(image_size=16, colours=2, values=SMALL, **settings)
    data.setup("fit")
    return data


def test_the_loss_is_the_sum_of_the_concepts_cross_entropies():
    torch.manual_seed(0)
    model = CompositionalLinear([3, 2], ImageEncoderConfig(outputs=8), image_size=16)
    x, y = torch.rand(5, 3, 16, 16), torch.tensor([[0, 1], [2, 0], [1, 1], [0, 0], [2, 1]])
    logits = model.heads(model.encoder(x))
    expected = F.cross_entropy(logits[:, :3], y[:, 0]) + F.cross_entropy(logits[:, 3:], y[:, 1])
    torch.testing.assert_close(model.training_step((x, y), 0), expected)
    found = model.predict_step((x, y), 0)
    assert found["values"].shape == (5, 2)
    assert torch.equal(found["values"][:, 1], logits[:, 3:].argmax(1))
    settings = model.optimizer_config
    assert (settings.name, settings.lr, settings.weight_decay, model.schedule_config.name) == (
        "adam", 1e-3, 0.0, "cosine",
    )  # fmt: skip


def test_targets_of_one_concept_and_those_that_do_not_fit():
    x = torch.rand(4, 3, 16, 16)
    y = torch.tensor([0, 1, 2, 1])
    model = CompositionalLinear([3], image_size=16)
    torch.testing.assert_close(model.training_step((x, y), 0), F.cross_entropy(model(x), y))
    for sizes, targets, message in (
        ([2], y, r"sizes: \[2\], but the data has targets of torch.int64 and shape \(4, 1\) from 0 to 2"),
        ([3, 2], y, r"whole numbers \(B, 2\) from 0"),
        ([3], y.float(), "torch.float32"),
        ([3], y - 1, "from -1 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            CompositionalLinear(sizes, image_size=16).training_step((x, targets), 0)


def test_every_weight_that_is_trained_has_a_gradient():
    """Also where the projection is not called: processes side by side would wait for it."""
    for name in ("pre", "post"):
        model = CompositionalLinear([3], ImageEncoderConfig(features=name), image_size=16)
        model.training_step((torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 1])), 0).backward()
        trained = {own for own, p in model.named_parameters() if p.requires_grad}
        assert trained == {own for own, p in model.named_parameters() if p.grad is not None}
        assert ("encoder.projection.weight" in trained) == (name == "post")


def test_before_and_after_the_projection():
    torch.manual_seed(0)
    net = ConvEncoder(16, 3, 8)
    x = torch.rand(2, 3, 16, 16)
    pre, post = (embeddings_of(net, x, features) for features in ("pre", "post"))
    assert pre.shape == (2, 64 * 4)
    torch.testing.assert_close(net.projection(pre), post)
    for features, size in (("pre", 256), ("post", 8)):
        assert CompositionalLinear([2], ImageEncoderConfig("conv", 8, features), 16).heads.in_features == size


def test_pixels_are_the_largest_channel():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(build_encoder(ImageEncoderConfig("pixels"), 8)(x), x.max(1).values.reshape(2, 64))


def test_a_frozen_encoder_of_timm_stays_as_it_is(tmp_path):
    torch.manual_seed(0)
    config = ImageEncoderConfig("resnet10t", 0, "pre", None, True, RESNET)
    model = CompositionalLinear([2, 3], config, image_size=32)
    assert model.heads.in_features == 4
    model.train()
    assert not any(part.training for part in model.encoder.modules())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["heads.weight", "heads.bias"]
    torch.save(model.encoder.state_dict(), tmp_path / "weights.pth")
    again = CompositionalLinear(
        [2, 3], ImageEncoderConfig("resnet10t", 0, "pre", tmp_path / "weights.pth", True, RESNET), 32
    )
    assert weights_hash(again.encoder) == weights_hash(model.encoder)


def test_it_trains_from_its_config_and_opens_without_the_file_of_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(ConvEncoder(16, 3, 64).state_dict(), tmp_path / "conv.pth")
    options = {
        "model.sizes": [2, 3, 2, 2, 2, 2],
        "model.encoder.weights": str(tmp_path / "conv.pth"),
        "data.image_size": 16,
        "data.colours": 2,
        "data.values": SMALL,
        "techniques.concept_geometry.init_args.steps": 5,
        "techniques.concept_geometry.init_args.fraction": 0.3,
        "trainer.max_epochs": 1,
        "trainer.enable_progress_bar": False,
        "wandb.mode": "disabled",
    }
    experiment = framework.build("interpretability/compositional_linear", options)
    experiment.fit()
    metrics = experiment.trainer.callback_metrics
    names = ["color", "shape", "scale", "orientation", "posX", "posY"]
    assert float(metrics["val/accuracy"]) == pytest.approx(
        np.mean([float(metrics[f"val/accuracy_{n}"]) for n in names])
    )
    assert "concept_geometry/post/r2_whitened" in metrics
    (tmp_path / "conv.pth").unlink()
    model = framework.open_model(experiment.folder)
    assert weights_hash(model) == weights_hash(experiment.model)


def test_other_concepts_than_the_datas_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"model.sizes": [2, 3], "data.values": SMALL, "wandb.mode": "disabled"}
    with pytest.raises(UserError, match=r"sizes: \[2, 3\], but the data has \[5, 3, 2, 2, 2, 2\]: color 5, shape 3"):
        framework.build("interpretability/compositional_linear", options).fit()


def test_kept_embeddings(tmp_path):
    """The key has weights, transforms and images; the file is read by the datamodule of embeddings."""
    torch.manual_seed(0)
    data, net = small_data(), ConvEncoder(16, 3, 8)
    first = embeddings(net, data, "both", folder=tmp_path)
    again = embeddings(net, data, "both", folder=tmp_path)
    assert (first.computed, again.computed) == (True, False)
    np.testing.assert_array_equal(first.z["post"], again.z["post"])
    x, y = data.samples.__getitems__(list(range(len(data.samples))))
    torch.testing.assert_close(torch.from_numpy(first.z["post"]), net(x).detach())
    np.testing.assert_array_equal(first.labels, y.numpy())
    with np.load(first.file) as arrays:
        assert str(arrays["features"]) == "both"
        assert set(arrays) >= {"image_embeds_pre", "image_embeds_post", "y_color", "values_posX", "key", "projection"}
    read = FactorEmbeddings(first.file, "pre", train_fraction=0.3)
    read.setup("fit")
    assert read.samples[0][0].shape == (256,)
    assert read.concepts == data.concepts
    with pytest.raises(UserError, match="has image_embeds_pre and image_embeds_post; pre or post"):
        FactorEmbeddings(first.file).setup("fit")
    alone = embeddings(net, data, "pre", folder=tmp_path)
    plain = FactorEmbeddings(alone.file, train_fraction=0.3)
    plain.setup("fit")
    assert torch.equal(plain.samples[0][0], read.samples[0][0])
    with pytest.raises(UserError, match=r"'post' is not accepted; .* has embeddings pre the projection"):
        FactorEmbeddings(alone.file, "post").setup("fit")

    key = cache_key(net, data.fingerprint, "pre", "projection")
    assert key != cache_key(net, small_data(mean=(0.5, 0.5, 0.5)).fingerprint, "pre", "projection")
    assert key != cache_key(net, data.fingerprint, "post", "projection")
    first.file.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        embeddings(net, data, "both", folder=tmp_path)
    with torch.no_grad():
        net.projection.bias[0] += 1
    assert key != cache_key(net, data.fingerprint, "pre", "projection")
    assert embeddings(net, data, "both", folder=tmp_path).computed


def test_the_survey(tmp_path, capsys):
    options = ["--data.image_size=16", "--data.colours=2", f"--data.values={json.dumps(SMALL)}", "--fraction=0.4"]
    options += [f"--cache={tmp_path / 'kept'}", f"--out={tmp_path}"]
    assert main(["pixels", "conv", *options]) == 0
    rows = json.loads((tmp_path / "survey.json").read_text())
    assert [(row["encoder"], row["features"]) for row in rows] == [("pixels", "pre"), ("conv", "pre")]
    assert all({"r2_whitened", "accuracy", "penalty", "cross", "held_out"} <= set(row) for row in rows)
    assert (tmp_path / "survey.png").stat().st_size > 0
    assert table_of(rows) in capsys.readouterr().out
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 2
    assert main(["clip", *options]) == 2
    assert "encoders: 'clip' is not accepted; pixels, conv, timm:NAME" in capsys.readouterr().err


def test_random_encoders_are_the_same_each_time():
    torch.manual_seed(1)
    first = weights_hash(open_encoder("conv", 16))
    torch.manual_seed(2)
    assert first == weights_hash(open_encoder("conv", 16)) != weights_hash(open_encoder("conv", 16, seed=1))
    with pytest.raises(UserError, match="is not a model of timm"):
        open_encoder("timm:no_such_model", 16)
    with pytest.raises(UserError, match="weights"):
        build_encoder(ImageEncoderConfig("pixels", weights="a.pth"), 16)
    with pytest.raises(UserError, match=r"encoder\.features"):
        build_encoder(ImageEncoderConfig("conv", features="both"), 16)
