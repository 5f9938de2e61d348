"""Small techniques for the engine's tests: one that grows a layer, one that adds a branch, one that freezes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from framework.editing import Context, Edit, Transform


def trainer_of(folder: Path, *callbacks: Any, **kwargs: Any) -> pl.Trainer:
    """A plain Trainer of Lightning's for two short epochs."""
    options: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "default_root_dir": folder,
    }
    return pl.Trainer(**{**options, **kwargs}, callbacks=list(callbacks))


class Net(pl.LightningModule):
    """A plain LightningModule, not of ours, with two groups and a schedule."""

    def __init__(self, width: int = 6, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        branch = getattr(self, "branch", None)
        hidden = torch.relu(self.first(x))
        return self.last(hidden) + (branch(x) if branch is not None else 0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.parameters() if p.ndim > 1 and p.requires_grad]
        others = [p for p in self.parameters() if p.ndim < 2 and p.requires_grad]
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Widen(Transform):
    """Gives the hidden layer more units; the new ones start by writing nothing."""

    technique: ClassVar[str] = "toy_widen"
    changes: ClassVar[frozenset[str]] = frozenset({"structure", "values"})
    moments: ClassVar[frozenset[str]] = frozenset({"start", "epoch", "step"})

    def __init__(self, to: int = 9, epoch: int | None = 1, step: int | None = None) -> None:
        self.to, self.epoch, self.step = to, epoch, step

    def due(self, context: Context) -> bool:
        if any(plan.name == self.name for plan in context.plans):
            return False
        if context.at == "epoch":
            return context.epoch == self.epoch
        return context.at == "step" and context.step == self.step

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        return {"from": model.first.out_features, "to": self.to}

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        first, last, old = model.first, model.last, decision["from"]
        wide = nn.Linear(first.in_features, decision["to"])
        out = nn.Linear(decision["to"], last.out_features)
        with torch.no_grad():
            out.weight[:, old:] = 0
            for new, was, where in (
                (wide.weight, first.weight, (slice(old),)),
                (wide.bias, first.bias, (slice(old),)),
                (out.weight, last.weight, (slice(None), slice(old))),
                (out.bias, last.bias, (slice(None),)),
            ):
                if was.shape == new[where].shape:
                    new[where] = was
        model.first, model.last = wide, out


class Branch(Transform):
    """Adds a low-rank branch and freezes the rest."""

    technique: ClassVar[str] = "toy_branch"
    changes: ClassVar[frozenset[str]] = frozenset({"structure", "trainability"})

    def __init__(self, rank: int = 2, epoch: int = 1, freeze: bool = False, optimizer: str = "keep") -> None:
        self.rank, self.epoch, self.freeze = rank, epoch, freeze
        self.optimizer = optimizer  # type: ignore[misc, assignment]

    def due(self, context: Context) -> bool:
        return context.epoch == self.epoch and not any(plan.name == self.name for plan in context.plans)

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        return {"rank": self.rank, "freeze": self.freeze}

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        if decision["freeze"]:
            model.requires_grad_(False)
        model.branch = nn.Sequential(nn.Linear(5, decision["rank"], bias=False), nn.Linear(decision["rank"], 3))

    @classmethod
    def undo(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        del model.branch


class EarlyBranch(Branch):
    """The same, before training."""

    technique: ClassVar[str] = "toy_early_branch"
    moments: ClassVar[frozenset[str]] = frozenset({"start"})

    def due(self, context: Context) -> bool:
        return not any(plan.name == self.name for plan in context.plans)


class Freeze(Edit):
    """Trains the last layer only."""

    technique: ClassVar[str] = "toy_freeze"
    changes: ClassVar[frozenset[str]] = frozenset({"trainability"})

    def __init__(self, keep: str = "last") -> None:
        self.keep = keep

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        return {"keep": [name for name, _ in model.named_parameters() if name.startswith(self.keep)]}

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in decision["keep"])
