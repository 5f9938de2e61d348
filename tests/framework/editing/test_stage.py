"""Edits that wait for others, and stages of training with an optimiser and a schedule of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Branch, Net, Widen, trainer_of
from resume_harness import Data
from torch import Tensor, nn

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.editing import Context, Once, Stage, Transform, ledger_of
from framework.editing.engine import check_run
from framework.errors import UserError


class Adapter(Once):
    """The toy branch, once."""

    technique: ClassVar[str] = "toy_adapter"
    changes = Branch.changes
    after = ("toy_scorer",)
    rank, freeze = 2, True
    decide, apply = Branch.decide, classmethod(Branch.apply.__func__)  # type: ignore[attr-defined]

    def __init__(self, epoch: int | None = None) -> None:
        self.epoch = epoch


class Scorer(Adapter):
    """Another, whose result the adapter is made of."""

    technique: ClassVar[str] = "toy_scorer"
    after = ()

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        return {}

    @classmethod
    def apply(cls, model: nn.Module, decision: Any) -> None:
        pass


class SlowWiden(Widen):
    """Leaves the structure alone from epoch 2 on, or never."""

    technique: ClassVar[str] = "toy_slow_widen"
    settles_by: ClassVar[str] = "until"

    def __init__(self, until: int | None = 2) -> None:
        super().__init__()
        self.until = until

    def settled(self, context: Context) -> int | None:
        return self.until


def epochs_of(*techniques: Any, **kwargs: Any) -> dict[str, int]:
    pl.seed_everything(1, verbose=False)
    trainer = trainer_of(Path("unused"), *techniques, **{"max_epochs": 4, "enable_checkpointing": False, **kwargs})
    trainer.fit(Net(), datamodule=Data())
    return {plan.technique: plan.epoch for plan in ledger_of(trainer.lightning_module).plans}


def test_it_is_made_at_the_start_at_its_epoch_or_once_the_structure_is_settled():
    assert epochs_of(Adapter()) == {"toy_adapter": 0}
    assert epochs_of(Adapter(epoch=3)) == {"toy_adapter": 3}
    assert epochs_of(Adapter(), SlowWiden()) == {"toy_slow_widen": 1, "toy_adapter": 2}
    assert epochs_of(Adapter(epoch=2), SlowWiden()) == {"toy_slow_widen": 1, "toy_adapter": 2}
    assert epochs_of(Adapter(), Widen()) == {"toy_widen": 1, "toy_adapter": 0}
    assert epochs_of(Adapter(), Scorer(epoch=2)) == {"toy_scorer": 2, "toy_adapter": 2}


def test_a_trial_run_does_not_ask_for_more_epochs():
    assert epochs_of(Adapter(epoch=3), fast_dev_run=True) == {}


@pytest.mark.parametrize(
    ("techniques", "said"),
    [
        (
            [Adapter(epoch=1), SlowWiden()],
            r"toy_adapter\.epoch: 1 is not accepted with toy_slow_widen, .* epoch 2; 2",
        ),
        ([Adapter(), SlowWiden(None)], r"toy_slow_widen\.until: None is not accepted with toy_adapter"),
        ([Adapter(epoch=4)], r"toy_adapter\.epoch: 4 is not reached, trainer\.max_epochs is 4"),
        ([Adapter(epoch=1), Scorer(epoch=2)], r"toy_adapter\.epoch: 1 is not accepted with toy_scorer"),
    ],
)
def test_what_cannot_be_waited_for_is_refused_before_training(techniques, said):
    with pytest.raises(UserError, match=said):
        epochs_of(*techniques)


def test_an_epoch_behind_the_last_step_is_refused_before_the_first():
    assert epochs_of(Adapter(epoch=2), max_steps=21) == {"toy_adapter": 2}
    with pytest.raises(UserError, match=r"toy_adapter\.epoch: 2 is not reached: trainer\.max_steps 20 are at most 2"):
        epochs_of(Adapter(epoch=2), max_steps=20)


def test_compiled_models_are_refused_only_if_it_acts_in_training():
    def check(adapter: Adapter) -> None:
        model = Net()
        model._compiler_ctx = {}
        trainer = trainer_of(Path("unused"), max_epochs=4)
        trainer.strategy._lightning_module = model
        check_run(trainer, model, {"toy_adapter": adapter})

    check(Adapter())
    with pytest.raises(UserError, match=r"torch\.compile"):
        check(Adapter(epoch=2))


class Staged(Transform):
    """Starts stages of one epoch, with a rate of their own."""

    technique: ClassVar[str] = "toy_staged"
    changes: ClassVar[frozenset[str]] = frozenset({"trainability"})
    moments = frozenset({"start", "epoch"})
    optimizer = "reset"

    def due(self, context: Context) -> bool:
        return all(plan.decision["stage"]["epoch"] != context.epoch for plan in context.plans)

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        stage = Stage(context.epoch, 1, {"lr": 0.1 * (context.epoch + 1)}, {"name": "cosine"})
        return {"stage": stage.to_plain()}

    @classmethod
    def apply(cls, model: nn.Module, decision: Any) -> None:
        pass


class Linear(Module):
    def __init__(self) -> None:
        super().__init__(OptimizerConfig("sgd", lr=7.0), ScheduleConfig("linear"))
        self.net = nn.Linear(5, 3)
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


def test_a_stage_has_its_own_rate_and_its_schedule_spans_it_alone():
    pl.seed_everything(1, verbose=False)
    module = Linear()
    trainer = trainer_of(Path("unused"), Staged(), max_epochs=3, enable_checkpointing=False)
    trainer.fit(module, datamodule=Data())
    steps = len(module.rates) // 3
    assert steps > 3
    cosine = [0.5 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    expected = [0.1 * (stage + 1) * factor for stage in range(3) for factor in cosine]
    torch.testing.assert_close(torch.tensor(module.rates), torch.tensor(expected))


def test_a_stage_with_an_unknown_setting_is_refused():
    class Wrong(Staged):
        technique: ClassVar[str] = "toy_wrong_stage"

        def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
            return {"stage": Stage(schedule={"nmae": "cosine"}).to_plain()}

    with pytest.raises(UserError, match=r"schedule\.nmae: there is no such setting"):
        trainer_of(Path("unused"), Wrong(), enable_checkpointing=False).fit(Linear(), datamodule=Data())


@pytest.mark.parametrize(
    "limits", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 0}, {"max_epochs": 8, "max_steps": 0}]
)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stage_spans_its_epochs_however_the_training_is_limited(limits, accumulate):
    pl.seed_everything(1, verbose=False)
    module, data = Linear(), Data()
    data.setup("fit")
    steps = math.ceil(len(data.train_dataloader()) / accumulate)
    limits = {key: value or 3 * steps for key, value in limits.items()}
    trainer = trainer_of(
        Path("unused"), Staged(), enable_checkpointing=False, accumulate_grad_batches=accumulate, **limits
    )
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 3 * steps
    cosine = [0.1 * 0.5 * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]
    per_step = module.rates[: len(data.train_dataloader()) : accumulate]
    torch.testing.assert_close(torch.tensor(per_step), torch.tensor(cosine))


def test_milestones_are_epochs_where_training_is_limited_by_steps():
    pl.seed_everything(1, verbose=False)
    module, data = Linear(), Data()
    module.schedule_config = ScheduleConfig("step", milestones=(2,))
    data.setup("fit")
    steps = len(data.train_dataloader())
    trainer = trainer_of(Path("unused"), enable_checkpointing=False, max_epochs=-1, max_steps=3 * steps)
    trainer.fit(module, datamodule=data)
    torch.testing.assert_close(torch.tensor(module.rates), torch.tensor([7.0] * 2 * steps + [0.7] * steps))


def test_a_training_without_an_end():
    pl.seed_everything(1, verbose=False)

    def run(schedule: ScheduleConfig) -> list[float]:
        module = Linear()
        module.schedule_config = schedule
        settings: dict[str, Any] = {"enable_checkpointing": False, "max_epochs": -1, "limit_train_batches": 3}
        trainer_of(Path("unused"), Stop(), **settings).fit(module, datamodule=Data())
        return module.rates

    torch.testing.assert_close(torch.tensor(run(ScheduleConfig(warmup=6))[:6]), torch.arange(1.0, 7) * 7 / 7)
    assert run(ScheduleConfig("step", milestones=(1,)))[2:4] == pytest.approx([7.0, 0.7])
    with pytest.raises(UserError, match=r"schedule\.name: 'cosine' needs trainer\.max_epochs"):
        run(ScheduleConfig("cosine"))
    with pytest.raises(UserError, match=r"schedule\.warmup: 0\.1, a share of all steps"):
        run(ScheduleConfig(warmup=0.1))


class Stop(pl.Callback):
    """After two epochs."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1
