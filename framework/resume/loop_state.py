"""The state of Lightning's training loop between two batches that Lightning does not save, as plain data.

These are mostly private parts of Lightning; tests/framework/resume/test_loop_state.py pins each name.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor
from torchmetrics import Metric

from framework.data.loader import ExactLoader

_METADATA = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx"),
    *("dataloader_idx", "metric_attribute"),
)
_CONNECTOR = ("_first_loop_iter", "_current_fx", "_logged_metrics", "_callback_metrics", "_progress_bar_metrics")


def capture_loops(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Returns the logged values so far, the states of metrics, and the positions of the loaders."""
    connector = trainer._logger_connector
    return {
        "connector": {name: _detached(getattr(connector, name)) for name in _CONNECTOR},
        "results": {key: _result_state(metric) for key, metric in trainer.fit_loop.epoch_loop._results.items()},
        "metrics": {name: _metric_state(metric) for name, metric in _metrics(module)},
        "loaders": [loader.state_dict() for loader in _loaders(trainer.fit_loop)],
        # no validation is running: positions left by a sanity check have no meaning
        "val_loaders": [
            loader.state_dict() | {"position": 0} for loader in _loaders(trainer.fit_loop.epoch_loop.val_loop)
        ],
        "should_stop": bool(trainer.should_stop),
    }


def still_stopped(trainer: Trainer, state: dict[str, Any], same_techniques: bool) -> bool:
    """Returns whether a training that was stopped early stays stopped.

    Args:
        trainer: The resumed run's trainer, with its callbacks restored.
        state: The captured state.
        same_techniques: Whether the techniques that stopped it are the same, with the same settings.
    """
    stopping = (callback for callback in trainer.early_stopping_callbacks if isinstance(callback, EarlyStopping))
    used_up = any(0 < callback.wait_count >= callback.patience for callback in stopping)
    return state["should_stop"] and (same_techniques or used_up)


def restore_loops(trainer: Trainer, module: LightningModule, state: dict[str, Any], at_epoch_end: bool) -> None:
    """Restores the state that :func:`capture_loops` returned; must be called last before the first batch.

    Args:
        trainer: The resumed run's trainer.
        module: Its module, whose metrics are restored.
        state: The captured state.
        at_epoch_end: Whether it was captured after an epoch, with its validation and hooks.
    """
    fit_loop = trainer.fit_loop
    if at_epoch_end:
        # With max_steps Lightning treats every checkpoint as one within an epoch, and would not train further.
        fit_loop.epoch_loop._restarting = fit_loop.epoch_loop.val_loop._restarting = False
    # within an epoch too: otherwise Lightning would not step the schedules of epochs at its end
    fit_loop._restarting = False
    for name, value in state["connector"].items():
        setattr(trainer._logger_connector, name, dict(value) if isinstance(value, dict) else value)
    for name, metric in _metrics(module):
        if name in state["metrics"]:
            _restore_metric(metric, state["metrics"][name])
    results = fit_loop.epoch_loop._results
    results.clear()
    for key, saved in state["results"].items():
        if saved["restorable"]:
            results[key] = _result(trainer, module, saved)
    for loop, key in ((fit_loop, "loaders"), (fit_loop.epoch_loop.val_loop, "val_loaders")):
        loaders = list(_loaders(loop))
        if len(loaders) == len(state[key]):
            for loader, saved in zip(loaders, state[key], strict=True):
                loader.load_state_dict(saved)


def _detached(value: Any) -> Any:
    return (
        {k: v.detach() if isinstance(v, Tensor) else v for k, v in value.items()} if isinstance(value, dict) else value
    )


def _metrics(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, part) for name, part in module.named_modules() if isinstance(part, Metric))


def _metric_state(metric: Metric) -> dict[str, Any]:
    states = {name: getattr(metric, name) for name in metric._defaults}
    return {
        "states": {name: list(value) if isinstance(value, list) else value for name, value in states.items()},
        "update_count": metric._update_count,
    }


def _restore_metric(metric: Metric, saved: dict[str, Any]) -> None:
    for name, value in saved["states"].items():
        tensors = [v.to(metric.device) for v in value] if isinstance(value, list) else value.to(metric.device)
        setattr(metric, name, tensors)
    metric._update_count = saved["update_count"]
    metric._computed = None


def _loaders(loop: Any) -> Iterator[ExactLoader]:
    combined = loop._combined_loader
    yield from (
        loader for loader in (() if combined is None else combined.flattened) if isinstance(loader, ExactLoader)
    )


def _result_state(metric: _ResultMetric) -> dict[str, Any]:
    """Returns the state of one value logged with ``self.log``: how it was logged, and the values so far."""
    meta = metric.meta
    state: dict[str, Any] = {name: getattr(meta, name) for name in _METADATA}
    reduce_fx: Any = meta.reduce_fx
    state |= {
        "reduce_fx": reduce_fx.__name__,
        "builtin": getattr(builtins, reduce_fx.__name__, None) is reduce_fx,
        "should_sync": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
        "restorable": meta.sync.group is None,  # a process group cannot be saved: such a mean starts again
        "is_tensor": metric.is_tensor,
        "has_reset": metric.has_reset,
        "update_count": metric._update_count,
        "forward_cache": metric._forward_cache if isinstance(metric._forward_cache, Tensor) else None,
        "computed": metric._computed if isinstance(metric._computed, Tensor) else None,
    }
    if metric.is_tensor:
        state["value"] = metric.value
        if meta.is_mean_reduction:
            state["cumulated_batch_size"] = metric.cumulated_batch_size
    return state


def _result(trainer: Trainer, module: LightningModule, saved: dict[str, Any]) -> _ResultMetric:
    reduce_fx = getattr(builtins if saved["builtin"] else torch, saved["reduce_fx"])
    meta = _Metadata(**{name: saved[name] for name in _METADATA}, reduce_fx=reduce_fx)
    meta.sync = _Sync(
        _should=saved["should_sync"], fn=trainer.strategy.reduce, _group=None, rank_zero_only=saved["rank_zero_only"]
    )
    metric = _ResultMetric(meta, saved["is_tensor"])
    if saved["is_tensor"]:
        metric.value = saved["value"]
        if meta.is_mean_reduction:
            metric.cumulated_batch_size = saved["cumulated_batch_size"]
    else:
        metric.value = module.get_submodule(saved["metric_attribute"])
    metric.has_reset = saved["has_reset"]
    metric._update_count = saved["update_count"]
    metric._forward_cache = saved["forward_cache"]
    metric._computed = saved["computed"]
    return metric.to(module.device)
