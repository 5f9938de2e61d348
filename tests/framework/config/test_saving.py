"""What is saved of a config parses again to the same: every class of Lightning's, defaults that are objects, texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import callbacks, loggers, plugins, profilers, strategies
from lightning.pytorch.callbacks import Callback
from torch import nn

from framework.config import yaml12
from framework.config.compose import read_inputs
from framework.errors import UserError
from framework.runs.command_line import Typed
from framework.runs.preparing import prepare

BASE = {"model": "lightning.pytorch.demos.boring_classes.BoringModel", "run": {"method": "x"}}
NEEDED: dict[str, Any] = {
    "scheduling": {0: 2},
    "swa_lrs": 0.1,
    "precision": "bf16-mixed",
    "weights_dtype": "torch.bfloat16",
    "mode": "nf4",
    "device": "cpu",
    "batch_size_fn": "builtins.len",
}
"""What some classes cannot do without; a text does for all others."""
OTHERS = ("Logger", "LitLogger", "Strategy", "ParallelStrategy", "Profiler", "CheckpointIO", "LayerSync")
"""What is abstract, or of a package that is not installed."""
KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def typed(tree: dict[str, Any]) -> Typed:
    composed, _ = prepare(read_inputs({**BASE, **tree}), "fit")
    return Typed("fit", composed)


def saved(tree: dict[str, Any]) -> dict[str, Any]:
    """The saved config, which parses again to the same settings and text."""
    first = typed(tree)
    again = typed(yaml12.load(first.text()))
    assert again.text() == first.text()
    assert str(again.settings).replace("<Interval.step: 'step'>", "'step'") == str(first.settings).replace(
        "<Interval.step: 'step'>", "'step'"
    )
    return yaml12.load(first.text())


def classes(module: Any) -> list[dict[str, Any]]:
    """Every class that a module of Lightning's offers, with what it cannot do without."""
    found = []
    for name in module.__all__:
        cls = getattr(module, name)
        if inspect.isclass(cls) and name not in OTHERS:
            arguments = list(inspect.signature(cls.__init__).parameters.values())[1:]
            needed = [p.name for p in arguments if p.default is p.empty and p.kind in KINDS]
            settings = {argument: NEEDED.get(argument, "x") for argument in needed}
            if name == "DeepSpeedPrecision":
                settings = {"precision": "bf16-mixed"}
            if name == "Timer":
                settings = {"interval": "step"}
            found.append({"class_path": f"{module.__name__}.{name}", "init_args": settings})
    assert len(found) >= 4
    return found


def test_callbacks():
    techniques = {f"t{number}": item for number, item in enumerate(classes(callbacks))}
    found = saved({"techniques": techniques})["techniques"]
    assert {item["class_path"] for item in found.values()} == {item["class_path"] for item in techniques.values()}
    averaging = next(item for item in found.values() if item["class_path"].endswith("StochasticWeightAveraging"))
    assert averaging["init_args"]["swa_lrs"] == 0.1
    assert "device" not in averaging["init_args"]  # parsing puts Lightning's own in again
    pruning = next(item for item in found.values() if item["class_path"].endswith("ModelPruning"))
    assert pruning["init_args"]["pruning_fn"] == "x"


def test_loggers_and_plugins():
    extra = [f"lightning.pytorch.plugins.environments.{n}" for n in ("LightningEnvironment", "SLURMEnvironment")]
    found = saved({"trainer": {"logger": classes(loggers), "plugins": [*classes(plugins), *extra]}})["trainer"]
    assert len(found["logger"]) == len(classes(loggers))


@pytest.mark.parametrize("item", [*classes(strategies), *classes(profilers)], ids=lambda item: item["class_path"])
def test_strategies_and_profilers(item):
    key = "strategy" if "strategies" in item["class_path"] else "profiler"
    assert saved({"trainer": {key: item}})["trainer"][key]["class_path"] == item["class_path"]


@pytest.mark.parametrize(
    "trainer",
    [
        {"callbacks": [{"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": [0.1, 0.2]}}]},
        {"strategy": {"class_path": "FSDPStrategy", "init_args": {"mixed_precision": {"param_dtype": "torch.half"}}}},
        {"strategy": {"class_path": "DDPStrategy", "init_args": {"timeout": "0:05:00"}}, "max_time": {"hours": 1}},
        {"plugins": [{"class_path": "AsyncCheckpointIO", "init_args": {"checkpoint_io": "TorchCheckpointIO"}}]},
    ],
)
def test_settings_within_the_trainer(trainer):
    saved({"trainer": trainer})


class Inner:
    def __init__(self, device: torch.device = torch.device("cpu"), size: int = 1) -> None:  # noqa: B008
        self.device, self.size = device, size


class Objects(Callback):
    """Defaults that are objects, some of which have a name to be found by."""

    def __init__(
        self,
        activation: nn.Module = nn.ReLU(),  # noqa: B008
        nameless: Callable[[int], int] = lambda x: x,
        named: Callable[..., int] = len,
        kind: type[nn.Module] = nn.GELU,
        dtype: torch.dtype = torch.float32,
        anything: Any = torch.zeros(2),  # noqa: B008
        parts: dict[str, Any] = {"type": torch.float16},  # noqa: B006
        either: Callable[..., int] | str = "sum",
        inner: Inner | None = None,
        several: list[Inner] | None = None,
    ) -> None:
        super().__init__()


def test_defaults_that_are_objects():
    inner = {"class_path": f"{__name__}.Inner", "init_args": {"size": 3}}
    item = {"class_path": f"{__name__}.Objects", "init_args": {"inner": inner, "several": [inner]}}
    found = saved({"techniques": {"t": item}})["techniques"]["t"]["init_args"]
    assert found == {
        "activation": {"class_path": "torch.nn.ReLU", "init_args": {"inplace": False}},
        "named": "builtins.len",
        "kind": "torch.nn.GELU",
        "dtype": "torch.float32",
        "either": "sum",
        "inner": inner,
        "several": [inner],
    }


@pytest.mark.parametrize(
    ("key", "value"), [("device", torch.device("cpu")), ("avg_fn", lambda *a: a[0]), ("swa_epoch_start", object())]
)
def test_an_object_that_cannot_be_written_is_refused(key, value):
    settings = {"swa_lrs": 0.1, key: value}
    item = {"class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging", "init_args": settings}
    with pytest.raises(UserError, match=rf"^techniques.t.{key}: .*") as refused:
        typed({"techniques": {"t": item}}).text()
    assert "\n" not in str(refused.value)
