"""The technique in training: when it comes, who waits for it, its optimiser, what the report says, two fits are one."""

from __future__ import annotations

import json
import math

import lightning.pytorch as pl
import pytest
import torch

import framework
from callbacks.liger import Liger, converted, linearize, restore
from callbacks.lora import LoRA, lora_layers
from callbacks.mixture_growth import MixtureGrowth
from callbacks.recovery_report import RecoveryReport, as_before, losses, output_errors
from datamodules.sequence.tokens import TokenData
from framework import OptimizerConfig
from framework.editing import ledger_of, undo
from framework.errors import UserError
from framework.optim import ScheduleConfig
from modules.sequence.transformer import TransformerLM
from modules.vision.mlp import MLP

TARGETS = ["q_proj", "k_proj", "v_proj"]


class Seen(pl.Callback):
    """What each epoch trains with."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        optimizer = trainer.optimizers[0]
        steps = {int(state["step"]) for state in optimizer.state.values()}
        trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        self.rows.append(
            (
                len(converted(pl_module)),
                len(lora_layers(pl_module)),
                optimizer.param_groups[0]["lr"],
                max(steps),
                trained,
            )
        )


def fit(folder, *techniques, epochs=3, **settings):
    torch.manual_seed(0)
    model = TransformerLM(256, 16, 2, 2, optimizer=OptimizerConfig(lr=0.01), schedule=settings.pop("schedule", None))
    seen = Seen()
    trainer = pl.Trainer(
        **{"limit_train_batches": 4, "limit_val_batches": 2, "logger": False, **settings},
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*techniques, seen],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=TokenData(length=24, batch_size=4))
    return model, trainer, seen.rows


def test_softmax_first_then_linear_then_lora(tmp_path):
    liger = Liger(window=6, epoch=1, recovery_optimizer={"lr": 0.002}, recovery_schedule={"name": "linear"})
    lora = LoRA(rank=2, alpha=2, target_modules=TARGETS, trainable_modules=[])
    model, _, rows = fit(tmp_path, lora, liger, schedule=ScheduleConfig("constant"))
    total = sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    trained = 2 * 3 * 2 * (16 + 16)
    assert rows[0] == (0, 0, 0.01, 4, total)
    assert [row[:2] for row in rows[1:]] == [(2, 6), (2, 6)]
    assert rows[1][2] == pytest.approx(0.002 * 0.5)  # a schedule of its own over eight steps
    assert [row[3] for row in rows] == [4, 4, 8], "the optimiser started anew, once"
    assert [row[4] for row in rows[1:]] == [trained, trained]
    assert [(plan.technique, plan.epoch) for plan in ledger_of(model).plans] == [("liger", 1), ("lora", 1)]
    undo(model, "lora")
    undo(model, "liger")
    assert not converted(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == dict(model.named_parameters()).keys()


def test_before_training_and_without_lora(tmp_path):
    model, _, rows = fit(tmp_path, Liger(window=6), epochs=1)
    assert rows[0][:4] == (2, 0, 0.01, 4)
    assert ledger_of(model).plans[0].decision["layers"] == ["decoder.blocks.0.mixer", "decoder.blocks.1.mixer"]


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"liger.epoch: 3 is not reached, trainer.max_epochs is 3"):
        fit(tmp_path, Liger(epoch=3))
    with pytest.raises(UserError, match=r"lora.epoch: 0 is not accepted with liger, which is done at epoch 2"):
        fit(tmp_path, Liger(epoch=2), LoRA(epoch=0))
    with pytest.raises(UserError, match=r"^epoch: -1 is not accepted"):
        Liger(epoch=-1)
    with pytest.raises(UserError, match=r"^recovery_optimizer.rate: there is no such setting"):
        Liger(recovery_optimizer={"rate": 1})
    with pytest.raises(UserError, match=r"^recovery_schedule.names: there is no such setting"):
        Liger(recovery_schedule={"names": 1})
    with pytest.raises(UserError, match=r"MLP has no attention that can be linearised"):
        framework.editing.edit(MLP(4, 8, 3), Liger())
    with pytest.raises(UserError, match="gate projections cannot be folded"):
        framework.fold(fit(tmp_path, Liger(gate_projection=True), epochs=1)[0])
    with pytest.raises(UserError, match="no technique of this run replaces a layer"):
        fit(tmp_path, RecoveryReport())
    with pytest.raises(UserError, match="eval_batches: 0 is not accepted"):
        RecoveryReport(eval_batches=0)


def test_it_does_not_wait_for_what_leaves_attention_alone(tmp_path):
    grows = MixtureGrowth(member_epochs=[1, 1])
    model, _, _ = fit(tmp_path, grows, Liger(window=6, epoch=1))
    assert [(plan.technique, plan.epoch) for plan in ledger_of(model).plans] == [
        ("mixture_growth", 0),
        ("mixture_growth", 1),
        ("liger", 1),
        ("mixture_growth", 2),
    ]


def test_the_report(tmp_path):
    report = RecoveryReport()
    techniques = [Liger(window=2, epoch=2), LoRA(rank=2, target_modules=TARGETS, trainable_modules=[]), report]
    _, trainer, _ = fit(tmp_path, *techniques, epochs=4, limit_train_batches=20)
    found = json.loads((tmp_path / "recovery.json").read_text())
    base, zero_shot, now = found["base_loss"], found["zero_shot_loss"], found["loss"]
    assert now == pytest.approx(float(trainer.callback_metrics["val/loss"]))
    assert found["recovery"] == pytest.approx((zero_shot - now) / (zero_shot - base))
    assert found["recovery"] == pytest.approx(float(trainer.callback_metrics["val/recovery"]), rel=1e-5)
    assert found["base_over_loss"] == pytest.approx(base / now)
    assert found["steps"] == 40
    assert [step for step, _ in found["curve"]] == [40, 60, 80]
    assert found["output_errors"].keys() == {"decoder.blocks.0.mixer", "decoder.blocks.1.mixer"}
    for name, (_, error) in found["output_errors"].items():
        assert error == pytest.approx(float(trainer.callback_metrics[f"recovery/{name}"]))
    assert (tmp_path / "figures" / "recovery.png").stat().st_size > 10_000


def test_the_base_in_the_report_is_the_validation_before(tmp_path):
    """The loss that the last validation of the softmax model gave, and the first of the linear one without training."""
    report = RecoveryReport()
    _, trainer, _ = fit(tmp_path / "one", epochs=1)
    expected = float(trainer.callback_metrics["val/loss"])
    fit(tmp_path / "two", Liger(window=2, epoch=1), report, epochs=2)
    state = report.state_dict()["start"]
    assert state["base"] == pytest.approx(expected, rel=1e-6)
    assert state["step"] == 4
    again = RecoveryReport()
    again.load_state_dict(report.state_dict())
    assert again.state_dict() == report.state_dict()


def test_output_errors_are_zero_where_both_are_one():
    torch.manual_seed(0)
    model = TransformerLM(64, 16, 2, 2, init_std=0.2).eval()
    batch = {"input_ids": torch.randint(64, (2, 20))}
    expected = losses(model, batch)
    linearize(model, window=20, alpha=0, beta=1)
    assert all(error < 1e-10 for error in output_errors(model, batch).values())
    linearize(restore(model), window=2)
    errors = output_errors(model, batch)
    assert all(1e-3 < error < math.inf for error in errors.values())
    by_hand = []
    layer = model.decoder.blocks[0].mixer
    x = model.decoder.blocks[0].mixer_norm(model.decoder.embed(batch["input_ids"]))
    with torch.no_grad():
        by_hand.append(layer(x))
        with as_before(model):
            by_hand.append(layer(x))
            assert torch.equal(losses(model, batch)[0], expected[0])
    error = (by_hand[0] - by_hand[1]).square().mean() / by_hand[1].square().mean()
    assert errors["decoder.blocks.0.mixer"] == pytest.approx(float(error), rel=1e-5)


def config(root, **techniques):
    return {
        "seed_everything": 1,
        "model": {
            "class_path": "modules.sequence.transformer.TransformerLM",
            "init_args": {"d_model": 16, "n_layers": 2, "n_heads": 2},
        },
        "data": {
            "class_path": "datamodules.sequence.tokens.TokenData",
            "init_args": {"length": 24, "batch_size": 4, "eval_windows": 8},
        },
        "techniques": techniques,
        "trainer": {
            "limit_train_batches": 4,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "run": {"root": str(root), "method": "toy", "resume_every_n_seconds": 0.0},
        "wandb": {"mode": "disabled"},
    }


def test_two_fits_are_one(tmp_path):
    """A base pretrained in a run of its own, and linearised in a second one that goes on from its checkpoint."""
    techniques = {
        "liger": {"class_path": "callbacks.liger.Liger", "init_args": {"window": 4, "epoch": 1}},
        "lora": {"class_path": "callbacks.lora.LoRA", "init_args": {"rank": 2, "target_modules": TARGETS}},
        "recovery_report": {"class_path": "callbacks.recovery_report.RecoveryReport"},
    }
    name = ["--run.name=one", "--trainer.max_epochs=2"]
    one = framework.build(config(tmp_path, **techniques), name)
    one.run()
    base = framework.build(config(tmp_path), ["--run.name=base", "--trainer.max_epochs=1"])
    base.run()
    second = [f"--ckpt_path={base.folder}", "--trainer.max_epochs=2"]
    two = framework.build(config(tmp_path, **techniques), second)
    two.run()
    weights = [experiment.trainer.lightning_module.state_dict() for experiment in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    reports = [json.loads((e.folder / "recovery.json").read_text()) for e in (one, two)]
    assert reports[0] == reports[1]
    opened = framework.open_model(two.folder)
    assert len(converted(opened)) == 2
