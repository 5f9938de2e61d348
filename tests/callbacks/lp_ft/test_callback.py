"""lp_ft: what is trained when, the optimiser over the stages, resuming in either, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import Kill, in_child, same
from torch import nn

import framework
from callbacks.lora import LoRA, lora_layers
from callbacks.lp_ft import LPFT, probe
from framework import OptimizerConfig
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.editing import edit, ledger_of
from framework.editing.ledger import trainable_names
from framework.errors import UserError
from framework.module import Module
from framework.observing.linear_probe import see

HEAD = ["net.head.weight", "net.head.bias"]


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x))


class Model(Module):
    def __init__(self, classes=3, optimizer: OptimizerConfig | None = None) -> None:
        super().__init__(optimizer or OptimizerConfig("adam", lr=0.01, weight_decay=0.0))
        self.save_hyperparameters()
        self.net = Net(classes)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss


class Data(DataModule):
    def __init__(self, classes: int = 3) -> None:
        super().__init__(batch_size=10)
        self.classes = classes

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(60, 4, generator=generator)
        y = (x[:, 0] + 0.3 * torch.randn(60, generator=generator)).argsort().argsort() * self.classes // 60
        self.train_set = ArrayDataset(x, y)


class Watch(pl.Callback):
    """Before each step: the epoch, what is trained, the rate, the modes, and how many parameters have a state."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx in (0, 5):
            optimizer = trainer.optimizers[0]
            norm, drop = pl_module.net.body[1], pl_module.net.body[2]
            self.rows.append(
                {
                    "at": (trainer.current_epoch, batch_idx),
                    "trained": trainable_names(pl_module),
                    "lr": optimizer.param_groups[0]["lr"],
                    "states": len(optimizer.state),
                    "modes": (norm.training, drop.training, pl_module.training),
                    "body": pl_module.net.body[0].weight.detach().clone(),
                    "mean": norm.running_mean.clone(),
                }
            )


def train(root, *techniques, epochs=3, classes=3, **options):
    torch.manual_seed(0)
    model, watch = Model(classes), Watch()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=[*techniques, watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, Data(classes))
    return model, watch.rows, trainer


@pytest.mark.parametrize("classes", [2, 3])
def test_a_solved_head_is_there_before_training(tmp_path, classes):
    torch.manual_seed(0)
    reference, data = Model(classes), Data(classes)
    data.setup("fit")
    before = copy.deepcopy(reference.state_dict())
    fit = probe(reference, [data.train_set.tensors])
    technique = LPFT(head_scale=2.0)
    model, rows, _ = train(tmp_path, technique, epochs=1, classes=classes)
    (plan,) = ledger_of(model).plans
    assert plan.decision["phase"] == "lp_ft"
    assert plan.decision["head"] == "net.head"
    assert len(rows[0]["trained"]) == 6
    assert rows[0]["modes"] == (True, True, True)
    assert torch.equal(rows[0]["body"], before["net.body.0.weight"])
    fresh = Model(classes)
    fresh.load_state_dict(before)
    edited = edit(fresh, LPFT(strategy="ft", head_scale=2.0))
    assert edited.decision["phase"] == "ft"
    torch.testing.assert_close(fresh.net.head.weight, 2 * before["net.head.weight"])
    torch.testing.assert_close(fresh.net.head.bias, before["net.head.bias"])
    seen = see(reference, "net.head", [data.train_set.tensors])
    assert float((seen.logits.argmax(1) == seen.labels).float().mean()) == pytest.approx(fit.accuracy)
    torch.testing.assert_close(reference.net.head.weight.double(), fit.weight, rtol=1e-6, atol=1e-6)


def test_a_trained_probe_and_the_stage_after_it(tmp_path):
    technique = LPFT(probe_epochs=2, probe_optimizer={"lr": 0.1}, finetune_optimizer={"lr": 0.001}, head_scale=3.0)
    model, rows, _ = train(tmp_path, technique, epochs=4)
    probing, tuning = rows[:4], rows[4:]
    assert [row["at"] for row in rows] == [(e, b) for e in range(4) for b in (0, 5)]
    for row in probing:
        assert row["trained"] == HEAD
        assert row["lr"] == 0.1
        assert row["modes"] == (False, False, True)
        assert torch.equal(row["body"], probing[0]["body"])
        assert torch.equal(row["mean"], probing[0]["mean"]), "batch norm counted on"
    for row in tuning:
        assert len(row["trained"]) == 6
        assert row["lr"] == 0.001
        assert row["modes"] == (True, True, True)
    assert [row["states"] for row in rows] == [0, 2, 2, 2, 0, 6, 6, 6]
    assert not torch.equal(tuning[1]["body"], tuning[0]["body"])
    assert not torch.equal(tuning[1]["mean"], tuning[0]["mean"])
    assert [plan.decision["phase"] for plan in ledger_of(model).plans] == ["probe", "finetune"]


def test_the_optimiser_may_be_kept(tmp_path):
    _, rows, trainer = train(tmp_path, LPFT(probe_epochs=1, optimizer="keep"), epochs=2)
    assert [row["states"] for row in rows] == [0, 2, 2, 6]
    names = [name for name, _ in trainer.lightning_module.named_parameters()]
    steps = {names[i]: int(state["step"]) for i, state in trainer.optimizers[0].state_dict()["state"].items()}
    assert steps == {name: 12 if name in HEAD else 6 for name in names}


def test_a_frozen_backbone_stays_so(tmp_path):
    model, rows, _ = train(tmp_path, LPFT(strategy="lp"), epochs=2)
    assert all(row["trained"] == HEAD and row["modes"] == (False, False, True) for row in rows)
    assert torch.equal(rows[0]["body"], model.net.body[0].weight)
    assert torch.equal(rows[0]["mean"], model.net.body[1].running_mean)


@pytest.mark.parametrize("probe_epochs", [0, 1])
def test_with_lora(tmp_path, probe_epochs):
    """The head is probed on the bare model; adapters and head are trained after."""
    lora = LoRA(rank=2, trainable_modules=["head"])
    model, rows, _ = train(tmp_path, lora, LPFT(probe_epochs=probe_epochs), epochs=2)
    assert [plan.technique for plan in ledger_of(model).plans] == ["lp_ft"] * (1 + probe_epochs) + ["lora"]
    assert ledger_of(model).plans[-1].epoch == probe_epochs
    adapters = [name for name in trainable_names(model) if ".lora_" in name]
    assert set(trainable_names(model)) == {*adapters, *HEAD}
    assert list(lora_layers(model)) == ["net.body.0"]
    if probe_epochs:
        assert rows[1]["trained"] == HEAD


def config(root: Path, **arguments):
    return {
        "seed_everything": 1,
        "model": {"class_path": f"{__name__}.Model"},
        "data": {"class_path": f"{__name__}.Data"},
        "techniques": {"lp_ft": {"class_path": "callbacks.lp_ft.LPFT", "init_args": arguments}},
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
        },
        "run": {"root": str(root), "method": "m", "name": "run", "resume_every_n_seconds": 0.0},
        "wandb": {"mode": "disabled"},
    }


CASES = [
    ({"head_scale": 2.0}, 4),
    ({"probe_epochs": 1, "finetune_schedule": {"name": "cosine"}}, 3),
    ({"probe_epochs": 1, "finetune_schedule": {"name": "cosine"}}, 7),
    ({"probe_epochs": 1, "optimizer": "keep"}, 3),
    ({"probe_epochs": 1, "optimizer": "keep"}, 10),
]


@pytest.fixture(scope="module")
def _imported(tmp_path_factory):
    """What a run imports late, forked children then have."""
    framework.build(config(tmp_path_factory.mktemp("imported"))).run()


@pytest.mark.usefixtures("_imported")
@pytest.mark.parametrize(("arguments", "kill"), CASES, ids=str)
def test_resumed_equals_uninterrupted(arguments, kill, tmp_path):
    def go(root, resume=False, die=False):
        overrides = [f"--ckpt_path={root / 'm' / 'run'}"] if resume else []
        experiment = framework.build(config(root, **arguments), overrides)
        if die:
            experiment.trainer.callbacks.append(Kill("on_train_batch_end", kill))
        experiment.run()
        module = experiment.trainer.lightning_module
        end = module.state_dict(), experiment.trainer.optimizers[0].state_dict(), trainable_names(module)
        torch.save(end, root / "end.pt")

    ends = []
    for name in ("straight", "stopped"):
        root = tmp_path / name
        root.mkdir()
        if name == "stopped":
            assert in_child(lambda: go(root, die=True)) == 137  # noqa: B023
            assert in_child(lambda: go(root, resume=True)) == 0  # noqa: B023
        else:
            assert in_child(lambda: go(root)) == 0  # noqa: B023
        ends.append(torch.load(root / "end.pt"))
    assert same(*ends)
    logs = [(tmp_path / name / "m" / "run" / "metrics.jsonl").read_bytes() for name in ("straight", "stopped")]
    assert logs[0] == logs[1]
    opened = framework.open_model(tmp_path / "stopped" / "m" / "run" / "checkpoints" / "last.ckpt", Model)
    assert same(dict(opened.state_dict()), dict(ends[0][0]))
    assert trainable_names(opened) == ends[0][2]


def test_bad_settings():
    cases = [
        ({"strategy": "lpft"}, r"^strategy: 'lpft' is not one of lp_ft, lp, ft"),
        ({"optimizer": "sgd"}, r"^optimizer: 'sgd' is not one of keep, reset"),
        ({"probe_epochs": -1}, r"^probe_epochs: -1 is not accepted; at least 0"),
        ({"cv": 1}, r"^cv: 1 is not accepted; at least 2"),
        ({"head_scale": 0}, r"^head_scale: 0 is not accepted; above 0"),
        ({"strategy": "ft", "probe_epochs": 2}, r"^probe_epochs: 2 is not accepted with strategy ft"),
        ({"probe_optimizer": {"lr": 1.0}}, r"^probe_optimizer: .* is not accepted without probe_epochs"),
        ({"finetune_schedule": {"nome": 1}}, r"^finetune_schedule.nome: there is no such setting"),
        ({"probe_epochs": 1, "optimizer": "keep", "finetune_optimizer": {"lr": 1.0}}, "with optimizer keep"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            LPFT(**arguments)


def test_bad_runs(tmp_path):
    with pytest.raises(UserError, match=r"lp_ft.probe_epochs: 3 is not accepted: fine-tuning would begin at epoch 3"):
        train(tmp_path, LPFT(probe_epochs=3))
    with pytest.raises(UserError, match=r"fine-tuning would begin after 12 steps, trainer.max_steps is 12"):
        train(tmp_path, LPFT(probe_epochs=2), epochs=-1, max_steps=12)
    with pytest.raises(UserError, match=r"lora.epoch: 0 is not accepted with lp_ft, which is done at epoch 1"):
        train(tmp_path, LPFT(probe_epochs=1), LoRA(epoch=0))
    with pytest.raises(UserError, match=r"lp_ft.strategy: 'lp' is not accepted with lora"):
        train(tmp_path, LPFT(strategy="lp"), LoRA())
    with pytest.raises(UserError, match=r"lp_ft.head: 'heads' names nothing in the model; nearest: net.head"):
        train(tmp_path, LPFT(head="heads"))
    with pytest.raises(UserError, match=r"lp_ft.cv: 61 is not accepted: class 0 has 20 examples"):
        train(tmp_path, LPFT(cv=61))
    trainer = pl.Trainer(max_epochs=1, callbacks=[LPFT()], logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(UserError, match=r"lp_ft.probe_epochs: 0: needs a datamodule"):
        trainer.fit(Model(), [(torch.zeros(2, 4), torch.zeros(2).long())])
    frozen = Model()
    frozen.net.head.requires_grad_(False)
    with pytest.raises(UserError, match=r"lp_ft.probe_epochs: net.head is frozen"):
        edit(frozen, LPFT(probe_epochs=1))
