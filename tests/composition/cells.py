"""What the composition suites run: one cell is a model, techniques in an order, a way to train and a kill.

A cell trains once without a stop, and once killed and resumed, in forked children. Both must end in the same bits, and
what the checkpoint holds must open in every way.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from composition.probes import ARCHITECTURES, CLASSES, Probe, ProbeData
from framework.editing import ledger_of, undo
from framework.editing.registry import find_technique
from framework.errors import UserError

EPOCHS, BATCHES = 3, 5
LATE = 1  # the epoch at which a mid-training edit is made

# The settings of each technique; one entry here puts it through every suite.
TECHNIQUES: dict[str, dict[str, Any]] = {
    "gg_init": {"class_path": "callbacks.gg_init.GGInit", "init_args": {"shape": 1.0}},
    "warm_start": {
        "class_path": "callbacks.warm_start.WarmStart",
        "init_args": {"shrink": 0.6, "perturb": 0.1, "when": [LATE]},
    },
    "kappa_tune": {"class_path": "callbacks.kappa_tune.KappaTune", "init_args": {"fraction": 0.5}},
    "lora": {"class_path": "callbacks.lora.LoRA", "init_args": {"rank": 2, "dropout": 0.1}},
    "ema": {"class_path": "callbacks.ema.EMA", "init_args": {"decay": 0.8}},
}

# Pairs that are refused before training, with the reason that the message must give.
REFUSED: dict[frozenset[str], str] = {
    # shrinking and noise write over what kappa_tune chose and froze the rest for
    frozenset({"warm_start", "kappa_tune"}): "which would rank weights that are no longer the pretrained ones",
}

HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "save")


@dataclass(frozen=True)
class Cell:
    """One cell; its name says all of it."""

    architecture: str
    techniques: tuple[str, ...]
    workers: int = 0
    accumulate: int = 1
    max_steps: int = -1
    hook: str = "on_train_batch_end"
    ranks: int = 1
    precision: str = "32-true"

    def __str__(self) -> str:
        options = [
            f"w{self.workers}",
            f"a{self.accumulate}",
            f"s{self.max_steps}",
            self.hook,
            f"r{self.ranks}",
            self.precision,
        ]
        return "-".join([self.architecture, "+".join(self.techniques) or "none", *options])

    @property
    def refusal(self) -> str | None:
        """Why it must be refused, if it must."""
        pairs = itertools.combinations(self.techniques, 2)
        return next((REFUSED[frozenset(pair)] for pair in pairs if frozenset(pair) in REFUSED), None)

    def config(self, root: Path) -> dict[str, Any]:
        """What the command line would read."""
        distributed = {"strategy": "ddp"} if self.ranks > 1 else {}
        return {
            "seed_everything": 3,
            "model": {"class_path": "composition.probes.Probe", "init_args": {"architecture": self.architecture}},
            "data": {
                "class_path": "composition.probes.ProbeData",
                "init_args": {"architecture": self.architecture, "num_workers": self.workers},
            },
            "techniques": {name: TECHNIQUES[name] for name in self.techniques},
            "trainer": {
                "max_epochs": EPOCHS,
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
            "run": {"root": str(root), "method": "probe", "name": "run", "resume_every_n_seconds": 0.0},
            "wandb": {"mode": "disabled"},
        }

    @property
    def kill(self) -> tuple[str, int]:
        """Where it dies: fixed by the cell, anywhere in training."""
        batches = -(-BATCHES // self.ranks)
        seen = updates = validations = 0
        for _ in range(EPOCHS):
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
    """Remembers the weights at three moments."""

    def __init__(self) -> None:
        self.weights: dict[str, dict[str, torch.Tensor]] = {}

    def _take(self, name: str, module: nn.Module) -> None:
        self.weights[name] = {key: value.clone() for key, value in module.state_dict().items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take("start", pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == LATE - 1:
            self._take("before late", pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == LATE:
            self._take("after late", pl_module)


def train(cell: Cell, root: Path, *, kill: tuple[str, int] | None = None, resume: bool = False) -> None:
    """One child: fits, and leaves what it ended with in ``root/end.pt``."""
    overrides = [f"--ckpt_path={root / 'probe' / 'run'}"] if resume else []
    experiment = framework.build(cell.config(root), overrides)
    trainer, trace = experiment.trainer, Trace()
    trainer.callbacks.append(trace)
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
    torch.save(end, root / ("end.pt" if trainer.global_rank == 0 else "rank1.pt"))
    if trainer.global_rank == 0 and not resume:
        torch.save(trace.weights, root / "trace.pt")


def _die_in_save(count: int) -> None:
    import os
    import signal

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

    def child(function: Callable[[], None]) -> list[int]:
        return in_two_ranks(function) if cell.ranks == 2 else [in_child(function)]

    if cell.refusal is not None:
        with pytest.raises(UserError, match=re.escape(cell.refusal)):
            framework.build(cell.config(straight)).run()
        assert not list(straight.rglob("*.ckpt"))
        return
    assert child(lambda: train(cell, straight)) == [0] * cell.ranks
    assert set(child(lambda: train(cell, stopped, kill=cell.kill))) == {137}, f"the kill at {cell.kill} missed"
    last = stopped / "probe" / "run" / "checkpoints" / "last.ckpt"
    resume = last.exists()
    assert child(lambda: train(cell, stopped, resume=resume)) == [0] * cell.ranks
    for name in ("end.pt", "rank1.pt")[: cell.ranks]:
        a, b = torch.load(straight / name), torch.load(stopped / name)
        for key in a:
            assert same(a[key], b[key]), f"{key} differs after the resume (killed at {cell.kill})"
    logs = [path / "probe" / "run" / "metrics.jsonl" for path in (straight, stopped)]
    assert logs[0].read_bytes() == logs[1].read_bytes(), f"the logs differ after the resume (killed at {cell.kill})"
    check_effects(cell, straight)
    if cell.ranks == 1:
        assert in_child(lambda: check_openings(cell, stopped)) == 0


def check_effects(cell: Cell, root: Path) -> None:
    """Every technique changed what it says it changes."""
    end, trace = torch.load(root / "end.pt"), torch.load(root / "trace.pt")
    plans = {plan["name"]: plan for plan in end["plans"]}
    start, weights = trace["start"], end["weights"]
    trained = {name for name in end["trainable"] if not same(start[name], weights[name])}
    assert trained, "nothing was trained"
    if {"kappa_tune", "lora"} & set(cell.techniques):
        assert end["frozen"], "nothing is frozen"
    for name in end["frozen"]:
        assert same(start[name], weights[name]), f"{name} is frozen and changed"
    for name in cell.techniques:
        if name == "gg_init":
            pl.seed_everything(3, verbose=False)
            fresh = Probe(cell.architecture).state_dict()
            for tensor in plans[name]["decision"]["weights"]:
                module, _, leaf = tensor.rpartition(".")
                now = start.get(tensor, start.get(f"{module}.base_layer.{leaf}"))
                assert not same(fresh[tensor], now), f"{tensor} was not initialised"
        elif name == "warm_start":
            assert plans[name]["epoch"] == LATE
            before, after = trace["before late"], trace["after late"]
            assert any(not same(before[key], after[key]) for key in before), "nothing was shrunk"
        elif name == "kappa_tune":
            decision = plans[name]["decision"]
            if "lora" in cell.techniques:
                assert decision["target_modules"] == plans["lora"]["decision"]["targets"]
            else:
                assert set(decision["tensors"]) == set(end["trainable"])
        elif name == "lora":
            ups = [key for key in weights if ".lora_B." in key or ".lora_embedding_B." in key]
            assert len(ups) == len(plans[name]["decision"]["targets"])
            assert all(weights[key].abs().max() > 0 for key in ups), "an adapter was not trained"
        elif name == "ema":
            last = torch.load(root / "probe" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
            updates = int(last["averaging_state"]["n_averaged"])
            assert updates > 0
            # the first update after a start or a reset copies
            assert same(last["state_dict"], last["current_model_state"]) == (updates == 1)


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
    with torch.autocast("cpu", torch.bfloat16, enabled=cell.precision == "bf16-mixed"):
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
    framework.fold(by_hand)
    base.load_state_dict(by_hand.state_dict(), strict=True)
    torch.testing.assert_close(predictions(base), expected, atol=1e-5, rtol=1e-4)


def product() -> Iterator[Cell]:
    """Every cell: each technique and each ordered pair on each architecture, with ways to train in turn."""
    combinations = [(), *((a,) for a in TECHNIQUES), *itertools.permutations(TECHNIQUES, 2)]
    for (number, techniques), architecture in itertools.product(enumerate(combinations), ARCHITECTURES):
        ways = itertools.product((0, 2), (1, 2), (-1, 6), HOOKS)
        turn = random.Random(f"{number}{architecture}")
        chosen = turn.sample(list(ways), 2)
        for workers, accumulate, max_steps, hook in chosen:
            yield Cell(architecture, techniques, workers, accumulate, max_steps, hook)
        yield Cell(architecture, techniques, precision="bf16-mixed")
        yield Cell(architecture, techniques, ranks=2)


def sample() -> list[Cell]:
    """A small set in which every pair of factor values stands together at least once."""
    names = [*TECHNIQUES]
    factors: list[list[Any]] = [
        [*ARCHITECTURES],
        [None, *names],
        [None, *names],
        [0, 2],
        [1, 2],
        [-1, 6],
        [*HOOKS],
    ]
    every = [
        row
        for row in itertools.product(*factors)
        if (row[1] is None and row[2] is None) or (row[1] is not None and row[1] != row[2])
    ]
    turn = random.Random(0)
    pairs = {pair for row in turn.sample(every, 4000) for pair in _pairs(row)}
    chosen = []
    while pairs:
        best = max(turn.sample(every, 300), key=lambda row: len(_pairs(row) & pairs))
        if _pairs(best) & pairs:
            chosen.append(best)
            pairs -= _pairs(best)
    return [
        Cell(architecture, tuple(name for name in (first, second) if name), workers, accumulate, steps, hook)
        for architecture, first, second, workers, accumulate, steps, hook in chosen
    ]


def _pairs(row: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    return {(i, j, row[i], row[j]) for i, j in itertools.combinations(range(len(row)), 2)}
