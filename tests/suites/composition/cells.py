"""What the composition suites run: one cell is a model, techniques in an order, a way to train and a kill.

A cell trains once without a stop, and once killed and resumed, in forked children. Both must end in the same bits, and
what the checkpoint holds must open in every way.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow.parquet
import pytest
import torch
from resume_harness import Kill, in_child, in_two_ranks, same
from torch import nn

import framework
from callbacks.dp_sgd.accounting import epsilon_of
from callbacks.logah_init import init_model
from callbacks.rf8 import in_rf8
from composition.probes import ARCHITECTURES, CLASSES, Probe, ProbeData
from composition.rules import Rule, refusal
from composition.settings import (
    CORE,
    FAMILIES,
    FIRST_TWO,
    FOLDED,
    HEADLESS,
    HEADS,
    OBSERVERS,
    OTHERS,
    PENALTY,
    folds,
    hypernetwork,
    late,
    learngene_file,
    probed,
    settings,
)
from framework.checkpoints.learngene_file import read_learngene
from framework.data.seeding import mix
from framework.editing import ledger_of, undo
from framework.editing.registry import find_technique
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rf8 import round_to_rf8
from framework.functional.learngene import expand_into

SAMPLES, BATCH = 36, 8
BATCHES = 5
PREFIXES = (
    "ntk/",
    "laziness/",
    "feature_drift/",
    "ntk_split/",
    "temperature_scaling/",
    "linear_scope/",
    "neural_code/",
    "sign_code/",
    "concept_geometry/",
    "centroid_alignment/",
    "grokking_delay/",
    "robustness/",
    "identifiability/",
    "propagation_tightness/",
    "representation_geometry/",
    "utilization_gap/",
)  # of what observers log
WHEN = {"step", "epoch"}
ALSO_EDITS = ("deep_shape", "liger", "rebalance_factors", "lp_ft")
HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "save")


@dataclass(frozen=True)
class Cell:
    """One cell; its name says all of it."""

    architecture: str
    techniques: tuple[str, ...]
    workers: int = 0
    accumulate: int = 1
    short: bool = False
    hook: str = "on_train_batch_end"
    ranks: int = 1
    precision: str = "32-true"

    def __str__(self) -> str:
        options = [f"w{self.workers}", f"a{self.accumulate}", "short" if self.short else "full", self.hook]
        names = "+".join(self.techniques) or "none"
        return "-".join([self.architecture, names, *options, f"r{self.ranks}", self.precision])

    @property
    def rule(self) -> Rule | None:
        """Why it must be refused, if it must."""
        return refusal(self.architecture, self.techniques)

    @property
    def epochs(self) -> int:
        """Of the training."""
        return FOLDED + 1 + ("lp_ft" in self.techniques) if folds(self.techniques) else 3

    @property
    def last_edit(self) -> int:
        """The epoch before which the last edit of structure, trainability or values is made."""
        if "lp_ft" in self.techniques:
            return probed(self.techniques)
        if folds(self.techniques):
            return FOLDED
        return late(self.techniques) if {"warm_start", "mixture_growth", *ALSO_EDITS} & set(self.techniques) else 0

    @property
    def batches(self) -> int:
        """Of an epoch, on each rank; of Poisson samples there are as many as are expected to hold all samples."""
        return round(SAMPLES / (BATCH * self.ranks)) if "dp_sgd" in self.techniques else math.ceil(BATCHES / self.ranks)

    @property
    def max_steps(self) -> int:
        """Two steps before the end of the last epoch, or one where it has but two, for a short one."""
        updates = math.ceil(self.batches / self.accumulate)
        return self.epochs * updates - min(2, updates - 1) if self.short else -1

    def config(self, forced: bool = False) -> dict[str, Any]:
        """What the command line would read; the run's folder is ``probe/run`` in the current one."""
        distributed = {"strategy": "ddp"} if self.ranks > 1 else {}
        return {
            "seed_everything": 3,
            "model": {"class_path": "composition.probes.Probe", "init_args": {"architecture": self.architecture}},
            "data": {
                "class_path": "composition.probes.ProbeData",
                "init_args": {"architecture": self.architecture, "num_workers": self.workers},
            },
            "techniques": settings(self.architecture, self.techniques, forced),
            "trainer": {
                "max_epochs": self.epochs,
                "max_steps": self.max_steps,
                "accumulate_grad_batches": self.accumulate,
                "accelerator": "cpu",
                "devices": self.ranks,
                "log_every_n_steps": 1,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "precision": self.precision,
                **distributed,
            },
            "run": {"root": ".", "method": "probe", "name": "run", "resume_every_n_seconds": 0.0},
            "wandb": {"mode": "disabled"},
        }

    @property
    def kill(self) -> tuple[str, int]:
        """Where it dies: fixed by the cell, anywhere in training."""
        batches = self.batches
        seen = updates = validations = 0
        for _ in range(self.epochs):
            for batch in range(1, batches + 1):
                if updates == self.max_steps:
                    break
                seen += 1
                updates += batch % self.accumulate == 0 or batch == batches
            else:
                validations += 1
        counts = {"on_validation_start": validations, "on_before_optimizer_step": updates, "save": updates}
        most = counts.get(self.hook, seen)
        return self.hook, random.Random(str(self)).randint(2 if most > 2 else 1, most)


class Trace(pl.Callback):
    """Remembers the weights where each epoch's edits are made and where it ends, and around one optimiser step."""

    def __init__(self) -> None:
        self.weights: dict[str, dict[str, torch.Tensor]] = {}

    def take(self, name: str, module: nn.Module) -> None:
        self.weights.setdefault(name, {key: value.clone() for key, value in module.state_dict().items()})

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.take(f"start {trainer.current_epoch}", pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step:
            self.take("stepped", pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.take(f"end {trainer.current_epoch}", pl_module)


class Before(pl.Callback):
    """The same, ahead of every technique."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step:
            self.trace.take("before the techniques stepped", pl_module)


def build(cell: Cell, forced: bool = False, resume: bool = False) -> framework.Experiment:
    """The run of a cell, to be started in whatever folder is the current one then."""
    experiment = framework.build(cell.config(forced), ["--ckpt_path=probe/run"] if resume else [])
    trace = Trace()
    experiment.trainer.callbacks.append(trace)
    experiment.trainer.callbacks.insert(0, Before(trace))
    return experiment


def train(experiment: framework.Experiment, root: Path, kill: tuple[str, int] | None = None) -> None:
    """Runs it in ``root`` and leaves there what it ended with, in ``end.pt``."""
    os.chdir(root)
    trainer = experiment.trainer
    if kill is not None and kill[0] == "save":
        _die_in_save(kill[1])
    elif kill is not None:
        trainer.callbacks.append(Kill(*kill))
    experiment.run()
    module = trainer.lightning_module
    end = {
        "weights": module.state_dict(),
        "trainable": [name for name, p in module.named_parameters() if p.requires_grad],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "step": trainer.global_step,
        "plans": [plan.to_plain() for plan in ledger_of(module).plans],
    }
    torch.save(end, "end.pt" if trainer.global_rank == 0 else "rank1.pt")
    if trainer.global_rank == 0 and experiment.checkpoint is None:
        (trace,) = (callback for callback in trainer.callbacks if isinstance(callback, Trace))
        torch.save(trace.weights, "trace.pt")


def _die_in_save(count: int) -> None:
    original, left = torch.save, [count]

    def save(obj: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            file.write(b"PK half of it")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        original(obj, file, *args, **kwargs)

    torch.save = save


def run(cell: Cell, folder: Path) -> None:
    """Runs a cell and checks all of it."""
    straight, stopped = folder / "straight", folder / "stopped"
    straight.mkdir(), stopped.mkdir()
    forced = False
    cell.config()  # files that the settings name are written here, for every child alike
    if "dp_sgd" in cell.techniques:
        epsilon_of([(1.0, 0.5, 1)], 0.1)  # imports what every child would import
    if cell.rule is not None:
        with pytest.raises(UserError, match=re.escape(cell.rule.message)), contextlib.chdir(straight):
            framework.build(cell.config()).run()
        assert not list(straight.rglob("*.ckpt"))
        if not cell.rule.lifted_by:
            return
        forced = True

    def child(function: Callable[[], Any]) -> list[int]:
        return in_two_ranks(function) if cell.ranks == 2 else [in_child(function)]

    def alone(cell: Cell, root: Path, kill: tuple[str, int] | None = None) -> list[int]:
        def function() -> None:
            os.chdir(root)
            train(build(cell, forced), root, kill)

        return child(function)

    def both() -> None:
        """Once to the end and once killed, from one build."""
        os.chdir(straight)
        experiment = build(cell, forced)
        state = random.getstate()  # Python seeds this generator, and it alone, after a fork

        def go(root: Path, kill: tuple[str, int] | None = None) -> None:
            random.setstate(state)
            train(experiment, root, kill)

        assert in_child(lambda: go(straight)) == 0
        assert in_child(lambda: go(stopped, cell.kill)) == 137, f"the kill at {cell.kill} missed"

    if cell.ranks == 1:
        assert in_child(both) == 0
    else:
        assert alone(cell, straight) == [0, 0]
        assert alone(cell, stopped, cell.kill) == [137, 137], f"the kill at {cell.kill} missed"

    def resumed() -> None:
        os.chdir(stopped)
        train(build(cell, forced, resume=(stopped / "probe" / "run" / "checkpoints" / "last.ckpt").exists()), stopped)
        if cell.ranks == 1:
            check_openings(cell, stopped)

    assert child(resumed) == [0] * cell.ranks
    for name in ("end.pt", "rank1.pt")[: cell.ranks]:
        a, b = torch.load(straight / name), torch.load(stopped / name)
        for key in a:
            assert same(a[key], b[key]), f"{key} differs after the resume (killed at {cell.kill})"
    logs = [path / "probe" / "run" / "metrics.jsonl" for path in (straight, stopped)]
    assert logs[0].read_bytes() == logs[1].read_bytes(), f"the logs differ after the resume (killed at {cell.kill})"
    check_effects(cell, straight)
    if observers := [name for name in cell.techniques if name in OBSERVERS]:
        unobserved = folder / "unobserved"
        unobserved.mkdir()
        bare = replace(cell, techniques=tuple(name for name in cell.techniques if name not in observers))
        assert alone(bare, unobserved) == [0] * cell.ranks
        check_observers(straight, unobserved, ", ".join(observers))


def check_observers(root: Path, bare: Path, names: str) -> None:
    """Beside observers a run ends in the same bits as without them, and logs the same but for what they log."""
    a, b = (torch.load(path / "end.pt") for path in (root, bare))
    for key in a:
        assert same(a[key], b[key]), f"{key} differs beside {names}"
    logs = []
    for path in (root, bare):
        lines = (path / "probe" / "run" / "metrics.jsonl").read_text().splitlines()
        rows = [{k: v for k, v in json.loads(line).items() if not k.startswith(PREFIXES)} for line in lines]
        logs.append([row for row in rows if row.keys() - WHEN])
    assert logs[0] == logs[1], f"the logs differ beside {names}"


def check_effects(cell: Cell, root: Path) -> None:
    """Every technique changed what it says it changes, and nothing else changed it."""
    end, trace = torch.load(root / "end.pt"), torch.load(root / "trace.pt")
    plans: dict[str, list[dict[str, Any]]] = {}
    for plan in end["plans"]:
        plans.setdefault(plan["name"], []).append(plan)
    assert plans.keys() == {
        name
        for name in cell.techniques
        if name in (*CORE, *ALSO_EDITS, "structured_init", "learngene", "logah_init", "ibp_init")
    }
    edited, weights = trace[f"start {cell.last_edit}"], end["weights"]
    trained = {name for name in end["trainable"] if not same(edited[name], weights[name])}
    assert trained, "nothing was trained"
    if {"kappa_tune", "lora"} & set(cell.techniques):
        assert end["frozen"], "nothing is frozen"
    for name in end["frozen"]:
        assert same(edited[name], weights[name]), f"{name} is frozen and changed"
    for name in cell.techniques:
        CHECKS[name](cell, plans.get(name, []), trace, end, root)


def _now(state: dict[str, torch.Tensor], tensor: str) -> torch.Tensor:
    """A tensor under the name that it has beneath an adapter too."""
    module, _, leaf = tensor.rpartition(".")
    found = state.get(tensor, state.get(f"{module}.base_layer.{leaf}"))
    assert found is not None, tensor
    return found


def _structured(end: Any) -> set[str]:
    """The tensors that got a structure after they were drawn."""
    plans = [plan for plan in end["plans"] if plan["name"] == "structured_init"]
    return {name for plan in plans for name in plan["decision"]["weights"]}


def _noisy(end: Any) -> set[str]:
    """The tensors that got noise after they were drawn."""
    return {name for plan in end["plans"] if plan["name"] == "winner" for name in plan["decision"]["noise"]}


def _overwritten(end: Any) -> set[str]:
    """The tensors that got a learngene's values, or predicted ones, after they were drawn."""
    found = {name for plan in end["plans"] if plan["name"] == "learngene" for name in plan["decision"]["tensors"]}
    return found | {
        name
        for plan in end["plans"]
        if plan["name"] == "logah_init"
        for name, how in plan["decision"]["parameters"].items()
        if how in ("predicted", "drawn")
    }


def _fresh(cell: Cell, end: Any) -> dict[str, torch.Tensor]:
    """The model as it is built, or as a learngene or a hypernetwork makes it."""
    pl.seed_everything(3, verbose=False)
    probe = Probe(cell.architecture)
    if "learngene" in cell.techniques:
        expand_into(probe, read_learngene(learngene_file()))
    for plan in (plan for plan in end["plans"] if plan["name"] == "logah_init"):
        init_model(probe, hypernetwork(FAMILIES[cell.architecture]), seed=plan["decision"]["seed"], noise=0.0)
    return probe.state_dict()


def _check_logah_init(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    start, expected = trace["start 0"], _fresh(cell, end)
    assert set(plan["decision"]["parameters"].values()) <= {"predicted", "drawn", "copied", "left alone"}
    tensors = _overwritten(end) - _structured(end) - _noisy(end)
    assert tensors, "nothing was predicted"
    for name in tensors:
        assert same(_now(start, name), expected[name]), f"{name} was not predicted"


def _check_learngene(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    start, expected = trace["start 0"], _fresh(cell, end)
    tensors = set(plan["decision"]["tensors"]) - _structured(end) - _noisy(end)
    assert {name.split(".")[1] for name in tensors} >= {"blocks", "norm", "head"}, "not all of the model was written"
    for name in tensors:
        assert same(_now(start, name), expected[name]), f"{name} was not expanded"


def _check_gg_init(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    decision, start = plan["decision"], trace["start 0"]
    for index, (tensor, entry) in enumerate(decision["weights"].items()):
        now = _now(start, tensor)
        drawn = gg.fill_(torch.empty_like(now), decision["shape"], entry["alpha"], [decision["seed"], index])
        if tensor in _overwritten(end):
            assert not same(now, drawn), f"{tensor} was drawn over its expansion"
        elif tensor in _structured(end):
            torch.testing.assert_close(now.norm(), drawn.norm(), msg=f"{tensor} was not drawn before its structure")
        else:
            assert same(now, drawn), f"{tensor} was not drawn"
    claimed = FIRST_TWO[cell.architecture] if "winner" in cell.techniques else []
    assert not {tensor.rpartition(".")[0] for tensor in decision["weights"]} & set(claimed)


def _check_ibp_init(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    decision, start = plan["decision"], trace["start 0"]
    for index, (tensor, entry) in enumerate(decision["weights"].items()):
        now = _now(start, tensor)
        alpha = gg.scale_of_std(entry["std"], 2.0)
        drawn = gg.fill_(torch.empty_like(now), 2.0, alpha, [decision["seed"], index])
        if tensor in _overwritten(end):
            assert not same(now, drawn), f"{tensor} was drawn over its expansion"
        elif tensor in _structured(end):
            torch.testing.assert_close(now.norm(), drawn.norm(), msg=f"{tensor} was not drawn before its structure")
        else:
            assert same(now, drawn), f"{tensor} was not drawn"


def _check_winner(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    noise = plan["decision"]["noise"]
    fresh, start = _fresh(cell, end), trace["start 0"]
    assert noise, "no layer got noise"
    if "mixture_growth" not in cell.techniques:  # whose templates are drawn in the run
        for index, (tensor, std) in enumerate(noise.items()):
            if tensor in _structured(end):  # what the noise was added to is another matrix
                continue
            seed = mix(plan["decision"]["seed"], index)
            drawn = std * torch.randn(fresh[tensor].shape, generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(_now(start, tensor), fresh[tensor] + drawn, msg=f"{tensor} has other noise")
        if not {"gg_init", "ibp_init"} & set(cell.techniques):
            for tensor in fresh.keys() - noise.keys() - _structured(end):
                assert same(_now(start, tensor), fresh[tensor]), f"{tensor} was touched"


def _check_mixture_growth(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    actions = [(plan["epoch"], plan["decision"]["action"]) for plan in plans]
    expected = [(0, "convert"), (1, "member"), (2, "grow")]
    assert actions == expected + [(3, "fold")] * folds(cell.techniques)
    for epoch, still, moving in ((0, "templates_1", "templates_0"), (1, "templates_0", "templates_1")):
        before, after = trace[f"start {epoch}"], trace[f"end {epoch}"]
        templates = [name for name in before if name.endswith(still)]
        assert templates, "nothing was converted"
        for name in templates:
            assert same(before[name], after[name]), f"{name} changed while the other member was trained"
            other = name.replace(still, moving)
            assert not same(before[other], after[other]), f"{other} was not trained"
    for name in (name for name in trace["start 2"] if ".templates_" in name):
        assert not same(trace["start 2"][name], trace["end 2"][name]), f"{name} was not trained after the growth"
    assert any(".templates_" in name for name in end["weights"]) != folds(cell.techniques)


def _check_warm_start(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    epoch = late(cell.techniques)
    assert plan["epoch"] == epoch
    before, after = trace[f"end {epoch - 1}"], trace[f"start {epoch}"]
    touched = plan["decision"]["tensors"]
    assert touched
    for name in touched:
        # a vector may end as it was where the histogram is remapped to few levels
        old, new = _now(before, name), _now(after, name)
        if old.ndim > 1 or "deep_shape" not in cell.techniques:
            assert not same(old, new), f"{name} was not shrunk"
        assert "coefficients" not in name, "shrinking both factors shrinks the weight twice"


def _check_kappa_tune(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    decision = plan["decision"]
    if "lora" in cell.techniques:
        lora = next(other for other in end["plans"] if other["name"] == "lora")
        assert decision["target_modules"] == lora["decision"]["targets"]
    else:
        assert set(decision["tensors"]) == set(end["trainable"])


def _check_lora(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    ups = [key for key in end["weights"] if ".lora_B." in key or ".lora_embedding_B." in key]
    assert len(ups) == len(plan["decision"]["targets"])
    assert all(end["weights"][key].abs().max() > 0 for key in ups), "an adapter was not trained"


def _check_ema(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    last = torch.load(root / "probe" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    updates = int(last["averaging_state"]["n_averaged"])
    assert updates > 0
    # the first update after a start or a reset copies
    assert same(last["state_dict"], last["current_model_state"]) == (updates == 1)


def _check_backslash(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    before, after = trace["before the techniques stepped"], trace["stepped"]
    pulled = {key for key in before if not same(before[key], after[key])}
    assert pulled, "nothing was pulled"
    for key in pulled:
        change = after[key] - before[key]
        assert bool((change * before[key] <= 0).all()), f"{key} was pulled away from zero"
    if cell.last_edit == 0:
        assert not pulled & set(end["frozen"]), "a frozen tensor was pulled"
    assert "backslash/shape" in (root / "probe" / "run" / "metrics.jsonl").read_text()


def _check_deep_shape(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    epoch = late(cell.techniques)
    assert plan["epoch"] == epoch
    before, after = trace[f"end {epoch - 1}"], trace[f"start {epoch}"]
    matrices = [name for name in plan["decision"]["tensors"] if name in before and before[name].ndim > 1]
    if matrices:
        assert any(not same(before[name], after[name]) for name in matrices), "nothing was remapped"
    else:  # adapters that came just before it: of values drawn at random none is 0 and no two are equal
        drawn = torch.cat([after[name].flatten() for name in plan["decision"]["tensors"] if ".lora_A." in name])
        assert len(drawn.unique()) < len(drawn) or bool((drawn == 0).any()), "nothing was remapped"
    if len(cell.techniques) == 1:  # the order of the weights stays
        old, new = (torch.cat([s[name].flatten() for name in plan["decision"]["tensors"]]) for s in (before, after))
        assert bool((new[old.argsort()].diff() >= 0).all()), "two weights changed places"


def _check_rf8(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = map(json.loads, (root / "probe" / "run" / "metrics.jsonl").read_text().splitlines())
    ratios = [row["rf8/sqnr"] for row in rows if "rf8/sqnr" in row]
    assert ratios, "nothing was evaluated in RF8"
    assert all(20 < ratio < 40 for ratio in ratios)
    last = torch.load(root / "probe" / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    exact = {
        name for name, w in last.items() if w.ndim > 1 and w.is_floating_point() and same(w, round_to_rf8(w, name))
    }
    assert not exact & set(end["trainable"]), "the rounded weights stayed"


def _check_rebalance_factors(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    epoch = late(cell.techniques)
    assert plan["epoch"] == epoch
    before, after = trace[f"end {epoch - 1}"], trace[f"start {epoch}"]
    assert not same(before["net.f"], after["net.f"]), "nothing was rebalanced"
    if len(cell.techniques) == 1:
        torch.testing.assert_close(*(state["net.f"] @ state["net.g"].T for state in (before, after)))
        beta = torch.full((3,), plan["decision"]["beta"])
        torch.testing.assert_close(torch.linalg.svdvals(after["net.f"]), beta)


def _check_ntk_monitor(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    drifts = [row["ntk/drift"] for row in _logged(root, "ntk/drift")]
    assert len(drifts) >= cell.epochs - cell.short, "nothing was looked at"
    assert _as_trained(drifts[-1] > 0, cell, end), "what moves is the kernel of all but the head"


def _check_structured_init(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    fresh, start = _fresh(cell, end), trace["start 0"]
    assert plan["decision"]["weights"], "nothing got a structure"
    for name in set(plan["decision"]["weights"]) - _noisy(end):
        now = _now(start, name)
        for matrix in now.flatten(2) if ".templates_" in name else now.flatten(1)[None]:
            assert int(torch.linalg.matrix_rank(matrix, rtol=1e-4)) == 1, f"{name} is not of rank 1"
        if not {"gg_init", "ibp_init", "mixture_growth"} & set(cell.techniques):
            torch.testing.assert_close(now.norm(), fresh[name].norm(), msg=f"{name} has another norm")


def _check_lp_ft(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    begun, done = plans
    epoch = probed(cell.techniques)
    assert [(plan["epoch"], plan["decision"]["phase"]) for plan in plans] == [(epoch - 1, "probe"), (epoch, "finetune")]
    head, before = set(begun["decision"]["trainable"]), trace[f"start {epoch - 1}"]
    assert head == {name for name in before if name.startswith(f"{done['decision']['head']}.")}
    after = trace[f"end {epoch - 1}"]
    alive = set(begun["decision"]["before"]) - head
    assert alive, "there is no backbone"
    for name in head:
        assert not same(_now(before, name), _now(after, name)), f"{name} was not probed"
    for name in alive:
        assert same(_now(before, name), _now(after, name)), f"{name} changed while the head was probed"
    for name in (key for key in before if "running_" in key):
        assert same(before[name], after[name]), f"{name} changed while the head was probed"
    trained = {name for name in alive & set(end["trainable"]) if not same(_now(after, name), end["weights"][name])}
    assert trained or {"lora", "kappa_tune"} & set(cell.techniques), "nothing else was fine-tuned"


def _check_laziness(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "laziness/kernel_alignment")
    assert len(rows) >= cell.epochs - cell.short, "nothing was looked at"
    if cell.short and cell.last_edit and rows[-1]["laziness/weight_change"] == 0:
        # the comparison starts again at the first look after an edit, and a short run may end before the next one
        *rows, start = rows
        assert abs(start["laziness/kernel_alignment"] - 1) < 1e-9, "it did not start again"
    assert rows[-1]["laziness/weight_change"] > 0, "the weights did not move"
    moved = rows[-1]["laziness/kernel_alignment"] < 1 - 1e-9
    # an adapter of the head is a product of two factors, in which the model is not linear
    adapted = moved and any(".lora_" in name for name in end["trainable"])
    assert adapted or _as_trained(moved, cell, end), "what moves is the kernel of all but the head"


def _check_liger(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    (plan,) = plans
    epoch = late(cell.techniques)
    assert plan["epoch"] == epoch
    before, after = trace[f"end {epoch - 1}"], trace[f"start {epoch}"]
    if not {"lora", "mixture_growth"} & set(cell.techniques):
        assert before.keys() == after.keys(), "a parameter was added or renamed"
    if len(cell.techniques) == 1:
        assert same(before, after), "a weight was changed"
        softmax, linear = Probe(cell.architecture).eval(), Probe(cell.architecture).eval()
        find_technique("liger").apply(linear, plan["decision"])
        x = torch.randn(8, 16)
        softmax.load_state_dict(after), linear.load_state_dict(after)
        assert not torch.allclose(softmax(x), linear(x), atol=1e-3), "attention was not replaced"


def _check_weight_penalty(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    terms = [row["train/weight_penalty"] for row in _logged(root, "train/weight_penalty")]
    assert len(terms) == len(_logged(root, "train/loss_step")), "not every step was penalised"
    if len(cell.techniques) == 1:
        squares = sum(float(trace["start 0"][name].double().square().sum()) for name in end["trainable"])
        assert terms[0] == pytest.approx(PENALTY * squares / 2, rel=1e-5)


def _check_input_gradient_penalty(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    terms = [row["train/input_gradient_penalty"] for row in _logged(root, "train/input_gradient_penalty")]
    assert len(terms) == len(_logged(root, "train/loss_step")), "not every step was penalised"
    assert all(term > 0 for term in terms)


def _check_grok_align(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    terms = [row["train/grok_align"] for row in _logged(root, "train/grok_align")]
    assert len(terms) == len(_logged(root, "train/loss_step")), "not every step was penalised"
    assert all(term > 0 for term in terms)
    assert _logged(root, "grok_align/centroid_norm"), "the centroid was not measured"


def _check_dp_sgd(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "dp_sgd/epsilon")
    assert len(rows) == cell.epochs
    steps = [row["dp_sgd/steps"] for row in rows]
    assert steps == sorted(set(steps)), "steps are counted once"
    assert steps[-1] == end["step"]
    rate = BATCH * cell.ranks / SAMPLES
    for row in rows:
        assert row["dp_sgd/sample_rate"] == pytest.approx(rate)
        assert row["dp_sgd/epsilon"] == epsilon_of([(0.5, rate, row["dp_sgd/steps"])], 0.01, "rdp")
    first = trace["start 0"]
    moved = {name for name in first if name in trace["stepped"] and not same(first[name], trace["stepped"][name])}
    assert moved, "the first step moves"


def _check_dependency_sparsity(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    terms = [row["train/dependency_sparsity"] for row in _logged(root, "train/dependency_sparsity")]
    assert len(terms) == len(_logged(root, "train/loss_step")), "not every step was penalised"
    assert all(term > 0 for term in terms)
    assert _logged(root, "dependency_sparsity/latent_std"), "the scale was not measured"


def _check_identifiability(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "identifiability/mcc")
    assert len(rows) == cell.epochs - cell.short, "not every validation was measured"
    assert all(0 <= row["identifiability/mcc"] <= 1 for row in rows)
    assert all(0 <= row["identifiability/active_units"] <= CLASSES for row in rows)
    assert all("identifiability/r2_int" in row for row in rows)


def _check_grokfast(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    saved = torch.load(root / "probe" / "run" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (average,) = (state["average"] for key, state in saved.items() if key.startswith("Grokfast"))
    assert set(average) <= set(end["trainable"]), "what is not trained was averaged"
    assert any(bool(value.any()) for value in average.values()), "nothing was averaged"


def _check_centroid_alignment(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "centroid_alignment/alignment")
    steps = len(_logged(root, "train/loss_step"))  # as few as five where ranks and accumulated batches share an epoch
    due = sum(point <= steps for point in (1, 2, 4, 8))
    assert len(rows) >= due, "not all of the grid was looked at"
    assert all(-1 <= row["centroid_alignment/alignment"] <= 1 for row in rows)
    assert all(0.25 <= row["centroid_alignment/pc1"] <= 1 + 1e-9 for row in rows)
    assert len({row["centroid_alignment/norm"] for row in rows}) > 1, "the centroids did not move"


def _check_grokking_delay(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "grokking_delay/waited")
    assert len(rows) == cell.epochs - cell.short, "not every validation was looked at"
    assert all(row["grokking_delay/test_step"] == row["grokking_delay/waited"] for row in rows)


def _check_robustness(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "robustness/accuracy_0.05")
    assert len(rows) == cell.epochs, "not every epoch was measured"
    for name in ("robustness/accuracy_0", "robustness/accuracy_0.05"):
        assert {row[name] for row in rows} <= {0, 0.25, 0.5, 0.75, 1}, "not the accuracy of four points"


def _check_fast_regularizer(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    terms = [row["train/fast_regularizer"] for row in _logged(root, "train/fast_regularizer")]
    assert len(terms) == len(_logged(root, "train/loss_step")), "not every step was penalised"
    assert all(term >= 0 for term in terms)
    assert any(term > 0 for term in terms)


def _check_propagation_tightness(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "propagation_tightness/local")
    assert len(rows) == cell.epochs, "not every epoch was measured"
    assert all(0 < row["propagation_tightness/local"] <= 1 + 1e-6 for row in rows)
    assert {row["propagation_tightness/accuracy"] for row in rows} <= {0, 0.25, 0.5, 0.75, 1}, "not of four points"
    assert len({row["propagation_tightness/radius"] for row in rows}) > 1, "the bounds did not move"


def _trains_the_head_alone(cell: Cell, end: Any) -> bool:
    """Whether the model is linear in what is trained, so that its kernel stays as it is."""
    head = HEADS.get(cell.architecture, "net.fc" if cell.architecture == "resnet" else "net.head")
    return all(name.startswith(f"{head}.") for name in end["trainable"])


def _as_trained(moved: bool, cell: Cell, end: Any) -> bool:
    """Whether features or a kernel moved as they must; where the head alone is trained they stay, but for an edit in
    mid-training and running statistics, which move them.
    """
    if _trains_the_head_alone(cell, end):
        return not moved or cell.last_edit > 0 or any("running_" in name for name in end["weights"])
    return moved


def _logged(root: Path, key: str) -> list[dict[str, Any]]:
    rows = map(json.loads, (root / "probe" / "run" / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if key in row]


def _check_feature_drift(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "feature_drift/diff")
    assert len(rows) == cell.epochs, "not every epoch was looked at"  # one that max_steps ends too
    # after an edit that makes the features others, the first look is a start
    moved = any(row["feature_drift/diff"] > 0 for row in rows)
    assert _as_trained(moved, cell, end), "what moves the features is all but the head"


def _check_ntk_split(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "ntk_split/ft_ratio")
    if _trains_the_head_alone(cell, end):
        assert not rows, "where the head alone is trained there is nothing to split"
        return
    (row,) = rows
    assert row["ntk_split/ft_ratio"] > 0
    assert 0 < row["ntk_split/rank_f"] <= 6 * CLASSES


def _check_neural_code(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    relu = cell.architecture in ("mlp", "resnet", "factored")
    prefix = "neural_code" if relu else "sign_code"
    rows = _logged(root, f"{prefix}/train/redundancy_ratio")
    assert len(rows) == cell.epochs + 1, "not the start and every epoch were looked at"
    assert all(row[f"{prefix}/train/examples"] == 36 and row[f"{prefix}/val/examples"] == 8 for row in rows)
    assert all(0 <= row[f"{prefix}/val/logistic"] <= 1 for row in rows)
    with np.load(root / "probe" / "run" / "codes.npz") as codes:
        assert (str(codes["kind"]), codes["offsets"][-1]) == (prefix, rows[-1][f"{prefix}/bits"])
        assert codes["train_ids"].tolist() == list(range(36))
        assert len({code.tobytes() for code in codes["train_codes"]}) == rows[-1][f"{prefix}/train/distinct"]


def _check_concept_geometry(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    for features in ("pre", "post"):
        rows = _logged(root, f"concept_geometry/{features}/r2")
        assert len(rows) == cell.epochs + 1, "not the start and every epoch were looked at"
        for row in rows:
            assert 0 <= row[f"concept_geometry/{features}/r2"] <= 1
            assert 0 <= row[f"concept_geometry/{features}/r2_whitened"] <= 1
            assert 0 <= row[f"concept_geometry/{features}/within"] <= 1 + 1e-6
    looks = json.loads((root / "probe" / "run" / "concept_geometry.json").read_text(encoding="utf-8"))["rows"]
    assert [look["epoch"] for look in looks] == list(range(cell.epochs + 1))
    assert looks[-1]["pre"]["sizes"] == [CLASSES]


def _check_representation_geometry(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    looks = _looks(cell, root, "representation_geometry")
    for look in looks:
        assert 0 <= look["displacement"] <= 4
        assert 0 <= look["effective_dimension"] <= 8  # of eight examples
    # after an edit that makes the embeddings others, the first look is a start
    moved = any(look["displacement"] > 0 for look in looks)
    assert _as_trained(moved, cell, end), "what moves the embeddings is all but the head"


def _check_utilization_gap(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    for look in _looks(cell, root, "utilization_gap"):
        assert 0 <= look["probe"] <= 1
        assert 0 <= look["end_to_end"] <= 1
        assert abs(look["gap"] - look["probe"] + look["end_to_end"]) < 1e-12


def _looks(cell: Cell, root: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a report: the start, the first two epochs and the end."""
    looks = json.loads((root / "probe" / "run" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    assert [look["epoch"] for look in looks] == sorted({0, 1, 2, cell.epochs}), "not every epoch was looked at"
    assert looks[-1]["bootstrap"]["samples"] == 8
    assert len(_logged(root, f"{name}/{'gap' if name == 'utilization_gap' else 'displacement'}")) == len(looks)
    return looks


def _check_temperature_scaling(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "temperature_scaling/temperature")
    assert len(rows) >= cell.epochs - cell.short, "nothing was looked at"
    for row in rows:
        assert row["temperature_scaling/temperature"] != 1
        assert row["temperature_scaling/nll_scaled"] <= row["temperature_scaling/nll"]


def _check_linear_scope(cell: Cell, plans: list[Any], trace: Any, end: Any, root: Path) -> None:
    rows = _logged(root, "linear_scope/acc_full")
    assert len(rows) >= (cell.epochs - cell.short) // 2, "nothing was looked at"
    for row in rows:
        assert row["linear_scope/error"] < 1e-8, "f(x) is not F x + r"
        assert row["linear_scope/norm_ratio"] > 0
        assert all(0 <= row[f"linear_scope/acc_{part}"] <= 1 for part in ("full", "votes", "bias"))


CHECKS: dict[str, Callable[[Cell, list[Any], Any, Any, Path], None]] = {
    "gg_init": _check_gg_init,
    "ibp_init": _check_ibp_init,
    "fast_regularizer": _check_fast_regularizer,
    "propagation_tightness": _check_propagation_tightness,
    "winner": _check_winner,
    "mixture_growth": _check_mixture_growth,
    "warm_start": _check_warm_start,
    "kappa_tune": _check_kappa_tune,
    "lora": _check_lora,
    "ema": _check_ema,
    "backslash": _check_backslash,
    "deep_shape": _check_deep_shape,
    "rf8": _check_rf8,
    "liger": _check_liger,
    "rebalance_factors": _check_rebalance_factors,
    "structured_init": _check_structured_init,
    "learngene": _check_learngene,
    "logah_init": _check_logah_init,
    "lp_ft": _check_lp_ft,
    "weight_penalty": _check_weight_penalty,
    "input_gradient_penalty": _check_input_gradient_penalty,
    "feature_drift": _check_feature_drift,
    "ntk_split": _check_ntk_split,
    "temperature_scaling": _check_temperature_scaling,
    "neural_code": _check_neural_code,
    "concept_geometry": _check_concept_geometry,
    "representation_geometry": _check_representation_geometry,
    "utilization_gap": _check_utilization_gap,
    "grok_align": _check_grok_align,
    "grokfast": _check_grokfast,
    "centroid_alignment": _check_centroid_alignment,
    "grokking_delay": _check_grokking_delay,
    "robustness": _check_robustness,
    "dependency_sparsity": _check_dependency_sparsity,
    "dp_sgd": _check_dp_sgd,
    "identifiability": _check_identifiability,
    "ntk_monitor": _check_ntk_monitor,
    "laziness": _check_laziness,
    "linear_scope": _check_linear_scope,
}


def check_openings(cell: Cell, root: Path) -> None:
    """The other four ways in, twice is once, undo, export; the first way in was the resume."""
    path = root / "probe" / "run" / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    data = ProbeData(cell.architecture)
    data.setup("test")
    x = data.test_set.__getitems__(list(range(8)))[0]

    def predictions(module: nn.Module) -> torch.Tensor:
        module.eval()
        with torch.no_grad():
            return module(x)

    by_class = Probe.load_from_checkpoint(path)
    by_path = framework.open_model(path)
    by_hand = Probe(cell.architecture)
    framework.replay(by_hand, saved)
    by_hand.load_state_dict(saved["state_dict"], strict=True)
    expected = predictions(by_hand)
    for module in (by_class, by_path):
        assert same(predictions(module), expected)
        assert [n for n, p in module.named_parameters() if p.requires_grad] == [
            n for n, p in by_hand.named_parameters() if p.requires_grad
        ]
    evaluation = framework.build(
        [str(root / "probe" / "run" / "config.yaml")], [f"--ckpt_path={path}", "--wandb.mode=disabled"], "predict"
    )
    evaluation.run()
    table = pyarrow.parquet.read_table(evaluation.folder / "predictions.parquet")
    stored = np.stack([table[f"prediction_{i}"].to_numpy() for i in range(CLASSES)], 1)
    rounded = in_rf8(by_hand) if "rf8" in cell.techniques else contextlib.nullcontext()
    with rounded, torch.autocast("cpu", torch.bfloat16, enabled=cell.precision == "bf16-mixed"):
        in_training = predictions(by_hand).float()
    assert same(torch.tensor(stored).float(), in_training), "predict gives something else"

    identities = [id(p) for p in by_hand.parameters()]
    framework.replay(by_hand, saved)
    assert [id(p) for p in by_hand.parameters()] == identities, "twice is not once"

    plans = ledger_of(by_path).plans
    base = Probe(cell.architecture)
    while plans and "values" not in find_technique(plans[-1].technique).changes:
        undo(by_path, plans[-1].name)
    if not any("structure" in find_technique(plan.technique).changes for plan in plans):
        assert by_path.state_dict().keys() == base.state_dict().keys(), "undone, and not what it was"
    for plan in saved.get("editing", {}).get("plans", []):
        if plan["technique"] == "liger":  # folded, a linearised model stays one, under the plain model's names
            find_technique("liger").apply(base, plan["decision"])
    x = x.double()  # folding sums in another order: in double precision nothing but a mistake shows
    expected = predictions(by_hand.double())
    framework.fold(by_hand)
    base.double().load_state_dict(by_hand.state_dict(), strict=True)
    torch.testing.assert_close(predictions(base), expected, atol=1e-9, rtol=1e-9)


def subsets() -> Iterator[Cell]:
    """Every subset of the core techniques on every architecture, listed in any order, each trained in a way of its own.

    The ways are dealt out so that each meets each architecture and each technique.
    """
    ways = [*itertools.product((0, 2), (1, 2), (False, True), HOOKS)]
    for number, architecture in enumerate(ARCHITECTURES):
        for mask in range(2 ** len(CORE)):
            names = [name for bit, name in enumerate(CORE) if mask >> bit & 1]
            random.Random(f"{architecture}{mask}").shuffle(names)
            workers, accumulate, short, hook = ways[(7 * mask + 13 * number + mask // 8) % len(ways)]
            yield Cell(architecture, tuple(names), workers, accumulate, short, hook)


# Of each of these one at most can be in a run.
EXCLUSIVE = (("learngene", "logah_init", "mixture_growth"), ("gg_init", "ibp_init"))


def others() -> list[Cell]:
    """The other techniques: alone on each architecture, and with each other technique on one."""
    cells = [Cell(architecture, (name,)) for name in OTHERS for architecture in ARCHITECTURES]
    names = [*ARCHITECTURES]
    pairs = [(name, other) for name in OTHERS for other in (*CORE, *OTHERS) if name != other]
    cells += [Cell(_home(names[i % len(names)], pair), pair, workers=i % 2 * 2) for i, pair in enumerate(pairs)]
    for name in names:
        met = [t for t in (*CORE, *OTHERS) if name == _home(name, (t,))]
        for kept in itertools.product(*([t for t in some if t in met] or [""] for some in EXCLUSIVE)):
            left_out = {t for some in EXCLUSIVE for t in some} - set(kept)
            cells.append(Cell(name, tuple(t for t in met if t not in left_out)))
    return cells


def _home(architecture: str, techniques: tuple[str, ...]) -> str:
    """An architecture on which the techniques run: this one, if they do."""
    if "rebalance_factors" in techniques:
        return "factored"
    if "liger" in techniques:
        return "transformer"
    if {"learngene", "logah_init"} & set(techniques):
        return "vit"
    if "dp_sgd" in techniques and architecture in ("mlp", "resnet"):  # which have batch norm
        return "vit"
    return "vit" if any(architecture in HEADLESS.get(name, ()) for name in techniques) else architecture


def observed() -> list[Cell]:
    """Observers: alone on each architecture, with each other technique on one, and on two ranks."""
    names = [*ARCHITECTURES]
    cells = [
        Cell(architecture, (name,), hook=HOOKS[i % 5]) for name in OBSERVERS for i, architecture in enumerate(names)
    ]
    pairs = [(name, other) for name in OBSERVERS for other in (*CORE, *OTHERS)]
    cells += [Cell(_home(names[i % len(names)], pair), pair) for i, pair in enumerate(pairs)]
    return [*cells, *(Cell("mlp", (name,), ranks=2) for name in OBSERVERS)]


def other_ways() -> list[Cell]:
    """The core techniques one by one and all together in bf16-mixed, and on two ranks."""
    names = [*ARCHITECTURES]
    cells = []
    for i, techniques in enumerate([*((name,) for name in (*CORE, *OTHERS)), CORE]):
        first, second = (_home(names[(i + shift) % len(names)], techniques) for shift in (0, 3))
        cells += [
            Cell(first, techniques, precision="bf16-mixed"),
            Cell(second, techniques, ranks=2, hook=HOOKS[i % 3]),
        ]
    return cells


def every() -> Iterator[Cell]:
    """The whole matrix."""
    yield from subsets()
    yield from others()
    yield from other_ways()
    yield from observed()
