"""The image classifier: it learns, mixes reproducibly, loads weights or says which do not fit, and refuses mistakes."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from checkout import CONFIGS
from safetensors.torch import save_file

from datamodules.vision.small_images import SmallImages
from framework.errors import UserError
from framework.module import OptimizerConfig, ScheduleConfig
from modules.vision.image_classifier import ImageClassifier, build_backbone
from modules.vision.mlp import MLP
from modules.vision.weights import load_weights, read_weights

TINY_VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def trainer(path, **settings):
    return pl.Trainer(
        default_root_dir=path,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, "max_epochs": 1, **settings},
    )


def digits(**settings):
    return SmallImages(source="digits", **settings)


def small(backbone="mlp", **settings):
    return ImageClassifier(backbone, **{"num_classes": 10, "image_size": 8, "in_chans": 1, **settings})


def test_learns_digits_in_one_epoch(tmp_path):
    pl.seed_everything(0)
    model = small(optimizer=OptimizerConfig(lr=0.005), schedule=ScheduleConfig("cosine"))
    data = digits(batch_size=16)
    run = trainer(tmp_path)
    run.fit(model, data)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(run.callback_metrics)
    (result,) = run.test(model, data, verbose=False)
    assert result["test/accuracy"] > 0.9
    assert result["test/accuracy_top5"] >= result["test/accuracy"]
    assert (tmp_path / "figures" / "confusion.png").stat().st_size > 5_000
    outputs = run.predict(model, data)
    probabilities = torch.cat([o["probabilities"] for o in outputs])
    target = torch.cat([o["target"] for o in outputs])
    assert torch.allclose(probabilities.sum(1), torch.ones(359), atol=1e-5)
    assert (probabilities.argmax(1) == target).float().mean().item() == pytest.approx(result["test/accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vit_tiny_patch16_224", {"backbone_args": TINY_VIT}), ("test_resnet", {"drop_path_rate": 0.1})],
)
def test_timm_backbones_take_a_step(tmp_path, name, settings):
    model = small(name, drop_rate=0.1, label_smoothing=0.1, optimizer=OptimizerConfig("lamb"), **settings)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = trainer(tmp_path, max_steps=1, limit_val_batches=1)
    run.fit(model, digits())
    assert torch.isfinite(run.callback_metrics["train/loss"])
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert len(changed) > len(before) / 2
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_mixing(tmp_path):
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    model = small(mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    kept = x.clone()
    torch.manual_seed(0)
    first = model._mixed(x, y)
    torch.manual_seed(0)
    second = model._mixed(x, y)
    assert torch.equal(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[1].shape == (8, 10)
    assert torch.allclose(first[1].sum(1), torch.ones(8))
    assert not torch.equal(first[0], x)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    trainer(tmp_path, limit_val_batches=0).fit(model, digits(batch_size=257))  # an odd batch is not mixed


def test_a_head_alone_of_any_size():
    model = build_backbone("mlp", 3, 4, 2, backbone_args={"width": 5, "depth": 1})
    assert model(torch.zeros(2, 2, 4, 4)).shape == (2, 3)
    assert model.forward_head(model.forward_features(torch.zeros(2, 2, 4, 4)), pre_logits=True).shape == (2, 5)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "wrapped", "lightning"])
def test_weights_load(tmp_path, suffix):
    source = small("vit_tiny_patch16_224", backbone_args=TINY_VIT)
    state = {key: value.contiguous() for key, value in source.backbone.state_dict().items()}
    file = tmp_path / f"weights.{'safetensors' if suffix == 'safetensors' else 'pth'}"
    if suffix == "safetensors":
        save_file(state, file)
    elif suffix == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, file)
    elif suffix == "lightning":
        run = trainer(tmp_path, max_steps=0)
        run.fit(source, digits())
        run.save_checkpoint(file)
    else:
        torch.save(state, file)
    model = small("vit_tiny_patch16_224", backbone_args=TINY_VIT, weights=str(file), weights_head="strict")
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())
    other = small("vit_tiny_patch16_224", backbone_args=TINY_VIT, weights=str(file), num_classes=4)
    assert other.backbone.head.weight.shape == (4, 16)
    assert torch.equal(other.backbone.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    skipped = small("vit_tiny_patch16_224", backbone_args=TINY_VIT, weights=str(file), weights_head="skip")
    assert not torch.equal(skipped.backbone.head.weight, state["head.weight"])


def test_weights_of_another_image_size_are_resampled(tmp_path):
    source = build_backbone("vit_tiny_patch16_224", 10, 8, 1, backbone_args=TINY_VIT)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    target = build_backbone("vit_tiny_patch16_224", 10, 16, 1, backbone_args=TINY_VIT)
    assert load_weights(target, tmp_path / "w.pth") == []
    assert target.pos_embed.shape == (1, 17, 16)


def test_every_mismatch_is_named_at_once(tmp_path):
    source = MLP(8, 1, 10, width=12, depth=2)
    state = source.state_dict()
    state["extra.weight"] = torch.zeros(3)
    del state["layers.1.bias"]
    torch.save(state, tmp_path / "w.pth")
    model = MLP(8, 1, 10, width=16, depth=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, tmp_path / "w.pth")
    message = str(caught.value)
    for line in (
        "layers.0.weight: 12x64 in the file, 16x64 in the model",
        "layers.1.bias: missing in the file, 16 expected",
        "extra.weight: 3 in the file, the model has no such tensor",
    ):
        assert line in message
    assert "head" not in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"head.weight: 10x12 in the file, 10x16 in the model"):
        load_weights(model, tmp_path / "w.pth", "strict")


class Hostile:
    def __reduce__(self):
        return Path.mkdir, (Path("trap"),)


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth not found; expected a local file"):
        small(weights=str(tmp_path / "none.pth"))
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=name):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="not a state dict"):
        read_weights(tmp_path / "list.pth")
    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(UserError, match="more than tensors"):
        read_weights(tmp_path / "hostile.pth")
    assert not Path("trap").exists()


def test_checkpoint_opens_without_the_weights_file(tmp_path):
    torch.save(MLP(8, 1, 10).state_dict(), tmp_path / "w.pth")
    model = small(weights=str(tmp_path / "w.pth"), optimizer=OptimizerConfig(lr=0.01))
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(model, digits())
    run.save_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "w.pth").unlink()
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    again = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(again.backbone.head.weight, model.backbone.head.weight)
    assert again.optimizer_config.lr == 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vit_tiny_patch16_244"}, r"nearest: vit_tiny_patch16_224(, \w+){4}$"),
        ({"backbone": "hf-hub:timm/vit"}, "is not a model of timm"),
        ({"backbone": "vit_tiny_patch16_224"}, "image_size: 8 is not a multiple of the patch size 16"),
        ({"backbone": "vit_tiny_patch16_224", "backbone_args": {**TINY_VIT, "dept": 2}}, "refused its arguments.*dept"),
        ({"backbone": "vit_tiny_patch16_224", "backbone_args": {**TINY_VIT, "num_heads": 3}}, "refused its arguments"),
        ({"backbone": "vgg11", "drop_path_rate": 0.1}, "refused its arguments.*drop_path_rate"),
        ({"backbone_args": {"widht": 3}}, "'mlp' refused its arguments.*widht"),
        ({"backbone_args": {"width": 0}}, "width: 0 is not accepted"),
        ({"drop_rate": 1.0}, "drop_rate: 1.0"),
        ({"mixup": -1.0}, "mixup: -1.0"),
        ({"num_classes": 0}, "num_classes: 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 7}, r"model.init_args.num_classes: 7, but num_classes of SmallImages is 10"),
        ({"in_chans": 3}, "in_chans: 3, but channels of SmallImages is 1"),
        ({"image_size": 28}, "image_size: 28, but image_size of SmallImages is 8"),
    ],
)
def test_a_model_for_other_data(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(small(**settings), digits())


def read_config(name, **data):
    config = yaml.safe_load((CONFIGS / "vision" / f"{name}.yaml").read_text())
    data = {**config["data"]["init_args"], **data}
    prefix = "${data.init_args."
    model = {
        key: data[value[len(prefix) : -1]] if isinstance(value, str) and value.startswith(prefix) else value
        for key, value in config["model"]["init_args"].items()
    }
    return model, data


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "vision").glob("image_classifier*.yaml")))
def test_configs_build_and_run_on_the_meta_device(name):
    model, _ = read_config(name)
    built = ImageClassifier(**model).to("meta")  # moved there, because timm 1.0.20 cannot build a ViT there
    logits = built(torch.empty(2, model["in_chans"], model["image_size"], model["image_size"], device="meta"))
    assert logits.shape == (2, model["num_classes"])
