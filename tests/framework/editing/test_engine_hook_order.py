"""The order of Lightning's hooks that the engine relies on: an upgrade that moves one must fail here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Net
from lightning.pytorch.strategies import DDPStrategy
from resume_harness import Data


def record(calls: list[str], where: str, *hooks: str) -> dict[str, Any]:
    def make(hook: str) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            trainer = next((a for a in args if isinstance(a, pl.Trainer)), None)
            optimizers = trainer.optimizers if trainer is not None else []
            filled = "+state" if optimizers and optimizers[0].state else ""
            calls.append(f"{where}.{hook}{filled}")
            parent = getattr(super(type(self), self), hook, None)
            return parent(*args, **kwargs) if parent is not None else None

        return call

    return {hook: make(hook) for hook in hooks}


def traced(calls: list[str]) -> tuple[type, pl.Callback]:
    module_hooks = ("setup", "configure_model", "on_load_checkpoint", "load_state_dict", "configure_optimizers")
    model = type("Traced", (Net,), record(calls, "module", *module_hooks))
    hooks = ("setup", "on_load_checkpoint", "load_state_dict", "on_fit_start", "on_train_start", "on_train_epoch_start")
    body = {**record(calls, "callback", *hooks), "state_dict": lambda self: {"x": 1}}
    return model, type("Watch", (pl.Callback,), body)()


def trainer(callback: pl.Callback, folder: Path, epochs: int = 1) -> pl.Trainer:
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(
        max_epochs=epochs,
        logger=False,
        callbacks=[callback],
        default_root_dir=folder,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **options,
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model, callback = traced([])
    first = trainer(callback, tmp_path)
    first.fit(model(), datamodule=Data())
    first.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_a_fit_without_a_checkpoint(tmp_path: Path) -> None:
    calls: list[str] = []
    model, callback = traced(calls)
    trainer(callback, tmp_path).fit(model(), datamodule=Data())
    assert calls == [
        "callback.setup",
        "module.setup",
        "module.configure_model",
        "module.configure_optimizers",
        "callback.on_fit_start",
        "callback.on_train_start",
        "callback.on_train_epoch_start",
    ]


def test_a_fit_from_a_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    calls: list[str] = []
    model, callback = traced(calls)
    trainer(callback, tmp_path, epochs=2).fit(model(), datamodule=Data(), ckpt_path=str(checkpoint), weights_only=True)
    assert calls == [
        "callback.setup",
        "module.setup",
        "module.configure_model",
        "module.on_load_checkpoint",
        "module.load_state_dict",
        "callback.on_load_checkpoint",
        "callback.load_state_dict",
        "module.configure_optimizers",
        "callback.on_fit_start",
        "callback.on_train_start+state",
        "callback.on_train_epoch_start+state",
    ]


def test_load_from_checkpoint_calls_the_module_only(checkpoint: Path) -> None:
    calls: list[str] = []
    model, _ = traced(calls)
    model.load_from_checkpoint(checkpoint, weights_only=True)
    assert calls == ["module.configure_model", "module.on_load_checkpoint", "module.load_state_dict"]


def test_weights_only_checkpoints_call_the_modules_hook(tmp_path: Path) -> None:
    class Saves(Net):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = 1

    run = trainer(pl.Callback(), tmp_path)
    run.fit(Saves(), datamodule=Data())
    run.save_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    assert torch.load(tmp_path / "w.ckpt", weights_only=True)["mine"] == 1


def test_the_path_of_the_checkpoint_is_not_known_in_setup(tmp_path: Path, checkpoint: Path) -> None:
    """When this fails, the engine can learn the path from the Trainer, and need not be told."""
    seen = []

    class Watch(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            seen.append(trainer.ckpt_path)

    trainer(Watch(), tmp_path).fit(Net(), datamodule=Data(), ckpt_path=str(checkpoint), weights_only=True)
    assert seen == [None]


def test_private_names_that_the_engine_uses() -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging
    from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

    for strategy, spawns in (("ddp_fork", True), ("ddp", False)):
        launcher = pl.Trainer(strategy=strategy, devices=2, accelerator="cpu", logger=False).strategy.launcher
        assert isinstance(launcher, _MultiProcessingLauncher) == spawns
    assert {"configure_ddp", "setup_optimizers"} <= set(dir(DDPStrategy))
    assert DDPStrategy()._start_method == "popen"
    assert hasattr(Net(), "_compiler_ctx")
    ema = EMAWeightAveraging(decay=0.5)
    assert (ema._average_model, ema._use_buffers, ema._device) == (None, True, None)
    assert set(ema._kwargs) == {"avg_fn"}


def test_callbacks_may_grow_while_their_setup_runs(tmp_path: Path) -> None:
    """A technique adds the engine to a plain Trainer in this way."""
    calls = []

    class Second(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            calls.append("second")

    class First(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            calls.append("first")
            trainer.callbacks.append(Second())

    trainer(First(), tmp_path).fit(Net(), datamodule=Data())
    assert calls == ["first", "second"]
