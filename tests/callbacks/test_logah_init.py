"""Predicted weights as a start: what is written, what is reported, what is refused; a plain checkpoint afterwards."""

from __future__ import annotations

import pytest
import torch
from editing_toys import Net, trainer_of
from hypernetworks import hypernetwork_folder
from torch import nn

from callbacks import logah_init
from callbacks.logah_init import LogahInit, init_model
from callbacks.lora import LoRA
from datamodules.vision.small_images import SmallImages
from framework.errors import UserError
from framework.optim import OptimizerConfig
from modules.initialization.logah import GraphHyperNetwork, Space
from modules.vision.image_classifier import ImageClassifier

VIT = {"patch_size": 2, "embed_dim": 24, "depth": 3, "num_heads": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    space = Space("vit", layers=(1, 2), widths=(12, 24), step=12, heads=(3,))
    return hypernetwork_folder(tmp_path_factory.mktemp("ghn") / "run", space)


def classifier(lr: float = 0.0) -> ImageClassifier:
    torch.manual_seed(3)
    settings = {"backbone": "vit_tiny_patch16_224", "num_classes": 10, "image_size": 8, "in_chans": 1}
    return ImageClassifier(**settings, backbone_args=VIT, optimizer=OptimizerConfig("sgd", lr=lr))


def digits() -> SmallImages:
    return SmallImages("digits", num_classes=10, image_size=8, channels=1, batch_size=256)


def fit(tmp_path, model, *techniques):
    trainer = trainer_of(tmp_path, *techniques, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, datamodule=digits())
    return trainer


def test_the_weights_are_those_of_the_hypernetwork(tmp_path, folder, capsys):
    model, other = classifier(), classifier()
    before = {name: value.clone() for name, value in model.named_parameters()}
    how = init_model(other, folder, noise=0.0)
    fit(tmp_path, model, LogahInit(folder, noise=0.0))
    values = dict(other.named_parameters())
    for name, value in model.named_parameters():
        if how[name] == "predicted":
            first = 1 if name == "backbone.pos_embed" else 0  # the class token's position is drawn
            assert torch.equal(value[:, first:] if first else value, values[name][:, first:] if first else values[name])
            assert not torch.equal(value, before[name]), name
    assert {kind for name, kind in how.items()} == {"predicted", "drawn"}
    assert how["backbone.cls_token"] == "drawn"


def test_noise_is_small_and_depends_on_the_seed_alone(folder):
    plain, one, two, other = (classifier() for _ in range(4))
    init_model(plain, folder, noise=0.0)
    init_model(one, folder, seed=1, noise=1e-3)
    init_model(two, folder, seed=1, noise=1e-3)
    init_model(other, folder, seed=2, noise=1e-3)
    name = "backbone.blocks.0.mlp.fc1.weight"
    values = [model.get_parameter(name) for model in (plain, one, two, other)]
    assert torch.equal(values[1], values[2])
    assert not torch.equal(values[1], values[3])
    assert float((values[1] - values[0]).std()) == pytest.approx(1e-3, rel=0.1)


def test_the_state_dict_is_a_plain_one(tmp_path, folder):
    import timm

    model = classifier()
    fit(tmp_path, model, LogahInit(folder))
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=8, in_chans=1, **VIT)
    plain.load_state_dict(model.backbone.state_dict())
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(plain.eval()(x), model.eval()(x))


def test_with_lora_the_prediction_is_what_stays_frozen(tmp_path, folder):
    model, other = classifier(lr=0.1), classifier()
    init_model(other, folder, noise=0.0)
    fit(tmp_path, model, LoRA(rank=2), LogahInit(folder, noise=0.0))
    expected = other.get_parameter("backbone.blocks.0.attn.qkv.weight")
    found = next(value for name, value in model.named_parameters() if "blocks.0.attn.qkv.base_layer.weight" in name)
    assert torch.equal(found, expected)


def test_the_report_names_what_was_not_predicted(tmp_path, folder, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(logah_init, "rank_zero_info", lines.append)
    fit(tmp_path, classifier(), LogahInit(folder))
    said = "\n".join(lines)
    assert "logah_init: drawn: backbone.cls_token" in said
    assert "predicted" in said


@pytest.mark.parametrize("case", ["none", "missing", "another", "unknown", "family", "name"])
def test_what_is_refused(tmp_path, folder, case):
    if case == "none":
        technique, model, message = LogahInit(), classifier(), r"techniques\.logah_init\.path: None is not accepted"
    elif case == "missing":
        technique, model, message = LogahInit(tmp_path / "no.ckpt"), classifier(), r"techniques\.logah_init: .*no\.ckpt"
    elif case == "another":
        file = tmp_path / "other" / "x.ckpt"
        trainer = trainer_of(tmp_path, max_epochs=1, limit_train_batches=1)
        trainer.fit(Net(), torch.utils.data.DataLoader([(torch.zeros(5), 0)] * 4, batch_size=2))
        trainer.save_checkpoint(file)
        technique, model, message = LogahInit(file), classifier(), r"techniques\.logah_init: .*config\.yaml"
    elif case == "unknown":
        settings = {"backbone": "resnet18", "num_classes": 10, "image_size": 8, "in_chans": 1}
        technique, model, message = LogahInit(folder), ImageClassifier(**settings), "holds no network of a known family"
    elif case == "family":
        technique, model = LogahInit(folder), classifier()
        model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        message = "is of the family mlp; this hypernetwork was trained on vit"
    else:
        technique, model = LogahInit(folder, network="backbone.blocks"), classifier()
        message = r"network: backbone\.blocks is a Sequential, of no known family"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, model, technique)


def test_a_hypernetwork_opens_from_its_run(folder):
    from framework.checkpoints.opening import open_model

    assert isinstance(open_model(folder), GraphHyperNetwork)
