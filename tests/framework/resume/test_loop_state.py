"""Every private name of Lightning, torchmetrics and numpy that resuming rests on, and the order of the hooks."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import nn
from torchmetrics import MeanMetric

from framework.checkpoints.writing import AtomicCheckpointIO
from framework.data import seeding
from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader
from framework.resume.loop_state import _CONNECTOR, _METADATA


@pytest.fixture
def trainer():
    return make_trainer()


def make_trainer(**kwargs):
    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": 1,
    }
    return pl.Trainer(**options | kwargs)


@pytest.mark.parametrize("name", _CONNECTOR)
def test_logger_connector(trainer, name):
    assert hasattr(trainer._logger_connector, name)


@pytest.mark.parametrize("name", ["on_run_start", "on_advance_end", "epoch_loop", "epoch_progress", "max_steps"])
def test_fit_loop(trainer, name):
    assert hasattr(trainer.fit_loop, name)


def test_launcher():
    """What ``framework.runs.launcher`` takes the place of, and what it calls."""
    strategy = make_trainer(strategy="ddp", devices=2).strategy
    assert type(strategy.launcher) is _SubprocessScriptLauncher
    assert strategy._launcher is strategy.launcher
    source = inspect.getsource(_SubprocessScriptLauncher.launch)
    for call_ in (
        "validate_settings(",
        "creates_processes_externally",
        "_call_children_scripts()",
        "_launch_process_observer(self.procs)",
        "_set_num_threads_if_needed(",
    ):
        assert call_ in source
    assert "env_copy = os.environ.copy()" in inspect.getsource(_SubprocessScriptLauncher._call_children_scripts)


def test_can_stop_early():
    assert isinstance(_FitLoop._can_stop_early, property)


def test_combined_loader(trainer):
    assert trainer.fit_loop._combined_loader is None
    assert trainer.fit_loop.epoch_loop.val_loop._combined_loader is None


@pytest.mark.parametrize("name", ["on_advance_end", "_should_accumulate", "_is_training_done", "_results", "val_loop"])
def test_epoch_loop(trainer, name):
    assert hasattr(_TrainingEpochLoop, name) or hasattr(trainer.fit_loop.epoch_loop, name)


@pytest.mark.parametrize("which", ["fit", "epoch", "val"])
def test_restarting_flags(trainer, which):
    loops = {
        "fit": trainer.fit_loop,
        "epoch": trainer.fit_loop.epoch_loop,
        "val": trainer.fit_loop.epoch_loop.val_loop,
    }
    assert loops[which]._restarting is False


def test_loops_call_the_wrapped_methods_on_the_instance():
    assert "self.on_run_start()" in inspect.getsource(_FitLoop.run)
    assert "self.on_advance_end()" in inspect.getsource(_FitLoop.run)
    assert "self.on_advance_end(data_fetcher)" in inspect.getsource(_TrainingEpochLoop.run)


def test_training_start_is_the_last_thing_in_run_start():
    source = inspect.getsource(_FitLoop.on_run_start)
    assert source.rstrip().endswith('call._call_strategy_hook(trainer, "on_train_start")')


def test_metadata_fields():
    names = {f.name for f in dataclasses.fields(_Metadata)}
    assert names == {*_METADATA, "reduce_fx", "_sync"}


def test_sync_fields():
    assert [f.name for f in dataclasses.fields(_Sync)] == ["fn", "_should", "rank_zero_only", "_op", "_group"]


def test_result_metric():
    meta = _Metadata(fx="f", name="n")
    meta.sync = _Sync()
    metric = _ResultMetric(meta, True)
    assert {"value", "cumulated_batch_size"} == set(metric._defaults)
    assert metric.has_reset is False
    assert metric._forward_cache is None
    assert metric._computed is None
    assert metric._update_count == 0
    assert metric.meta.sync.group is None
    assert metric.meta.sync.should is False


def test_torchmetrics_state():
    metric = MeanMetric()
    metric.update(torch.tensor(1.0))
    assert set(metric._defaults) == {"mean_value", "weight"}
    assert metric._update_count == 1
    assert metric._computed is None


def test_interruption_passes_through_lightning():
    source = inspect.getsource(call._call_and_handle_interrupt)
    assert "except BaseException" in source
    assert source.rstrip().endswith("raise")


def test_on_save_checkpoint_runs_on_all_ranks():
    assert "_call_callbacks_on_save_checkpoint" in inspect.getsource(_CheckpointConnector.dump_checkpoint)
    assert "is_global_zero" not in inspect.getsource(pl.Trainer.save_checkpoint)


def test_checkpoint_io_is_asked_to_load_with_weights_only(trainer):
    parameters = inspect.signature(AtomicCheckpointIO().load_checkpoint).parameters
    assert "weights_only" in parameters


def test_set_epoch_is_found_through_the_batch_sampler():
    from lightning.fabric.utilities.data import _set_sampler_epoch

    loader = ExactLoader(ArrayDataset(torch.arange(4)), 2)
    _set_sampler_epoch(loader, 5)
    assert loader.epoch == 5


def test_predict_loop_names(trainer):
    assert trainer.predict_loop._combined_loader is None
    trainer.predict_loop.return_predictions = False
    assert trainer.predict_loop.return_predictions is False


def test_launcher_can_kill():
    from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

    assert callable(_SubprocessScriptLauncher.kill)


def test_numpy_can_be_swapped_cheaply():
    assert isinstance(seeding._numpy, seeding._Swap)
    assert hasattr(np.random.mtrand._rand, "_bit_generator")


class Order(pl.LightningModule):
    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls
        self.layer = nn.Linear(1, 1)

    def setup(self, stage: str) -> None:
        self.calls.append("module.setup")

    def configure_model(self) -> None:
        self.calls.append("module.configure_model")

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.calls.append("module.on_load_checkpoint")

    def load_state_dict(self, *args, **kwargs):
        self.calls.append("weights")
        return super().load_state_dict(*args, **kwargs)

    def configure_optimizers(self):
        self.calls.append("configure_optimizers")
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def on_fit_start(self) -> None:
        self.calls.append(f"module.on_fit_start, optimiser state {len(self.optimizers().state)}")

    def on_train_start(self) -> None:
        self.calls.append(f"module.on_train_start, optimiser state {len(self.optimizers().state)}")

    def training_step(self, batch, batch_idx):
        self.calls.append("training_step")
        return self.layer(batch[0]).sum()


class OrderCallback(pl.Callback):
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def setup(self, *args, **kwargs):
        self.calls.append("callback.setup")

    def on_load_checkpoint(self, *args):
        self.calls.append("callback.on_load_checkpoint")

    def state_dict(self):
        return {"a": 1}

    def load_state_dict(self, state):
        self.calls.append("callback.load_state_dict")

    def on_fit_start(self, *args):
        self.calls.append("callback.on_fit_start")

    def on_train_start(self, *args):
        self.calls.append("callback.on_train_start")


def test_the_order_of_hooks_with_a_checkpoint(tmp_path: Path):
    calls: list[str] = []

    def fit(epochs: int, path: str | None) -> pl.Trainer:
        calls.clear()
        trainer = make_trainer(max_epochs=epochs, callbacks=[OrderCallback(calls)], default_root_dir=tmp_path)
        trainer.fit(Order(calls), ExactLoader(ArrayDataset(torch.ones(1, 1)), 1), ckpt_path=path)
        return trainer

    fit(1, None).save_checkpoint(tmp_path / "a.ckpt")
    fit(2, str(tmp_path / "a.ckpt"))
    assert calls == [
        "callback.setup",
        "module.setup",
        "module.configure_model",
        "module.on_load_checkpoint",
        "weights",
        "callback.on_load_checkpoint",
        "callback.load_state_dict",
        "configure_optimizers",
        "callback.on_fit_start",
        "module.on_fit_start, optimiser state 0",
        "callback.on_train_start",
        "module.on_train_start, optimiser state 2",
        "training_step",
    ]
