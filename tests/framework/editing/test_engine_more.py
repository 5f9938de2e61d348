"""The engine where runs follow each other in one process, fail, or bring modules and schedules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Branch, EarlyBranch, Freeze, Net, Widen, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_harness import Data
from torch import nn

import framework
from callbacks.lora import LoRA, lora_layers
from callbacks.warm_start import WarmStart
from framework.checkpoints.opening import open_model
from framework.editing import Context, edit, ledger_of, undo
from framework.editing.ledger import trainable_names
from framework.errors import UserError


def plans(model: nn.Module) -> list[str]:
    return [plan.name for plan in ledger_of(model).plans]


def test_a_run_that_failed_at_its_start_is_prepared_anew(tmp_path: Path) -> None:
    lora, model = LoRA(rank=2, target_modules=["frist"]), Net()
    trainer = trainer_of(tmp_path, lora)
    with pytest.raises(UserError, match="names nothing"):
        trainer.fit(model, datamodule=Data())
    lora.target_modules = ["first"]
    trainer.fit(model, datamodule=Data())
    assert list(lora_layers(model)) == ["first"]


def test_folded_and_trained_again_by_one_trainer(tmp_path: Path) -> None:
    model = Net()
    trainer = trainer_of(tmp_path, LoRA(rank=2, target_modules=["first"]))
    for _ in range(2):
        trainer.fit(model, datamodule=Data())
        assert list(lora_layers(model)) == ["first"]
        framework.fold(model)


def test_a_validation_before_training_does_not_change_the_order(tmp_path: Path) -> None:
    def ready(validated: bool) -> Net:
        torch.manual_seed(0)
        model = Net()
        lora = LoRA(rank=2, target_modules=["first"], trainable_modules=["last"])
        trainer = trainer_of(tmp_path, WarmStart(shrink=0.5, perturb=0.1), lora, max_epochs=1)
        if validated:
            trainer.validate(model, datamodule=Data(), verbose=False)
            assert plans(model) == ["lora"]
        pl.seed_everything(1, verbose=False)
        trainer.fit(model, datamodule=Data())
        assert plans(model) == ["warm_start", "lora"]
        return model

    first, second = ready(True), ready(False)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_checkpoint_before_later_edits_of_values_is_tested_in_the_same_process(tmp_path: Path) -> None:
    model = Net()
    model.test_step = lambda *args: None  # type: ignore[method-assign]
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer = trainer_of(tmp_path, Freeze(), WarmStart(when=[1]), saver)
    trainer.fit(model, datamodule=Data())
    assert plans(model) == ["toy_freeze", "warm_start"]
    data = Data()
    data.setup("fit")
    trainer.test(model, data.val_dataloader(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert plans(model) == ["toy_freeze"]
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.items())


def test_a_run_from_a_checkpoint_is_evaluated_after_edits_of_its_own(tmp_path: Path) -> None:
    from framework.editing import Editing

    trainer = trainer_of(tmp_path, EarlyBranch(), Widen(), max_epochs=1)
    trainer.fit(Net(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    model = Net()
    checkpoint = framework.open_checkpoint(tmp_path / "early.ckpt")
    trainer = trainer_of(tmp_path, Editing(checkpoint), EarlyBranch(), Widen())
    trainer.fit(model, datamodule=Data(), ckpt_path=tmp_path / "early.ckpt")
    trainer.validate(model, datamodule=Data(), verbose=False)
    assert plans(model) == ["toy_early_branch", "toy_widen"]


def test_edits_that_a_checkpoint_does_not_have_are_taken_back_aloud(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.fit(Net(), datamodule=Data())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    model = Net()
    with pytest.warns(UserWarning, match="toy_freeze: undone"):
        trainer_of(tmp_path, Freeze()).fit(model, datamodule=Data(), ckpt_path=tmp_path / "plain.ckpt")
    assert len(trainable_names(model)) == 4


class Late(Net):
    """Builds its layers whenever it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        del self.first, self.last

    def configure_model(self) -> None:
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)


def test_layers_built_late_are_built_once(tmp_path: Path) -> None:
    model = Late()
    trainer = trainer_of(tmp_path, LoRA(rank=2, target_modules=["first"]))
    trainer.fit(model, datamodule=Data())
    trainer.validate(model, datamodule=Data(), verbose=False)
    assert list(lora_layers(model)) == ["first"]
    trainer.save_checkpoint(tmp_path / "late.ckpt")
    opened = open_model(tmp_path / "late.ckpt", Late)
    trainer_of(tmp_path, LoRA(rank=2, target_modules=["first"]), max_epochs=0).fit(opened, datamodule=Data())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in opened.state_dict().items())


def test_a_cyclic_schedule_gains_a_group(tmp_path: Path) -> None:
    class Cyclic(Net):
        def configure_optimizers(self) -> Any:
            groups = [{"params": [*self.first.parameters(), *self.last.parameters()]}]
            if hasattr(self, "branch"):
                groups.insert(0, {"params": list(self.branch.parameters()), "weight_decay": 0.1})
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
            schedule = torch.optim.lr_scheduler.CyclicLR(
                optimizer, [0.01] * len(groups), [0.1] * len(groups), step_size_up=7
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    model = Cyclic()
    trainer = trainer_of(tmp_path, Branch())
    trainer.fit(model, datamodule=Data())
    alone = trainer_of(tmp_path)
    alone.fit(Cyclic(), datamodule=Data())
    expected = alone.optimizers[0].param_groups[0]["lr"]
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([expected] * 2)


def test_two_sets_of_adapters_of_one_run_are_both_trained(tmp_path: Path) -> None:
    one, two = LoRA(rank=2, target_modules=["first"]), LoRA(rank=3, target_modules=["last"])
    one.name, two.name = "one", "two"
    model = Net()
    trainer_of(tmp_path, one, two).fit(model, datamodule=Data())
    layers = ["first.lora_A.one", "first.lora_B.one", "last.lora_A.two", "last.lora_B.two"]
    assert trainable_names(model) == [f"{layer}.weight" for layer in layers]
    assert model.first.lora_B["one"].weight.any()


def test_what_was_trained_before_values_changed_is_trained_after_an_undo() -> None:
    model = Net()
    edit(model, WarmStart(), Context())
    copy = Net()
    framework.replay(copy, {"editing": ledger_of(model).to_plain()})
    edit(copy, LoRA(rank=2, target_modules=["first"]))
    undo(copy, "lora")
    assert len(trainable_names(copy)) == 4
