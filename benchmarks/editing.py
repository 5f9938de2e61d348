"""What editing costs: a training step beside idle techniques, and repeating a ledger against loading its weights.

Run: ``python benchmarks/editing.py [--only step] [--only replay]``.

Steps: every technique that decides once or is not due (``gg_init``, ``warm_start`` with an epoch far away,
``kappa_tune`` in mode full, ``weight_histogram``), with the engine, against a run with no technique and no engine.
Both arms train the same parameters of the same structure; ``lora`` and ``ema`` are left out, because they add work to a
step by design. The arms train in turns of one epoch in one process, and the ratio is the median over pairs of
neighbouring turns; of a turn its median step counts, in the thread's own processor time. Bound: 1.02.

Replay: a ledger of ten LoRA edits on disjoint layers of ViT-B/16 is repeated on a fresh model, against reading its
checkpoint from the file cache (``torch.load(weights_only=True)``) and ``load_state_dict``. Bound: 2.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _rows import Row, duration, report
from lightning.pytorch import Callback
from torch import nn

import framework
from callbacks.lora import LoRA, adaptable
from framework.claims import at_most
from framework.editing import Editing, ledger_of
from framework.editing import edit as edit_model

TECHNIQUES = [
    "--techniques.gg_init=true",
    "--techniques.warm_start={when: [1000000], force: true}",
    "--techniques.kappa_tune={mode: full, fraction: 0.5}",
    "--techniques.weight_histogram={every_n_epochs: 0}",
]
VIT = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 4}
MODELS = {
    "MLP": ["--model.backbone_args.width=256", "--model.backbone_args.depth=4"],
    "ViT": ["--model.backbone=vit_tiny_patch16_224", "--model.backbone_args=null", f"--model.backbone_args={VIT}"],
}


class Turns(Callback):
    """Lets two runs in two threads train alternately for some steps each, and records each step's thread time.

    Args:
        number: Number of the run, 0 or 1.
        shared: A dict shared by both, with the run whose turn it is.
        steps: Number of steps in a turn.
    """

    def __init__(self, number: int, shared: dict[str, Any], steps: int) -> None:
        self.number, self.shared, self.steps = number, shared, steps
        self.turns: list[list[float]] = []
        self._count, self._mark = 0, 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        """Called before the batch is used."""
        now = time.thread_time()  # time of other processes is not counted
        if self.turns:
            self.turns[-1].append(now - self._mark)
        if self._count % self.steps == 0:
            self._wait()
            self.turns.append([])
        self._count += 1
        self._mark = time.thread_time()

    def _wait(self) -> None:
        changed = self.shared["changed"]
        with changed:
            self.shared["whose"] = 1 - self.number
            self.shared["waiting"] += 1
            changed.notify_all()
            changed.wait_for(
                lambda: self.shared["over"] or (self.shared["whose"] == self.number and self.shared["waiting"] == 2)
            )
            self.shared["waiting"] -= 1

    def on_train_end(self, *args: Any) -> None:
        """Lets the other run continue."""
        changed = self.shared["changed"]
        with changed:
            self.shared["over"] = True
            changed.notify_all()


def quietly(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function without its output."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def build(model: str, idle: bool, steps: int, folder: str) -> Any:
    overrides = [
        *MODELS[model], f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1", "--trainer.limit_val_batches=0",
        "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false",
        f"--run.root={folder}", "--run.monitor=null", "--wandb.mode=disabled", *(TECHNIQUES if idle else ()),
    ]  # fmt: skip
    return framework.build("vision/image_classifier_digits", overrides)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def both_arms(model: str, turns: int, steps: int, folder: str) -> tuple[list[float], list[float]]:
    """Returns the seconds of the median step in each turn: without techniques, and with idle ones."""
    first = build(model, True, 2, folder)
    first.run()
    shared: dict[str, Any] = {"whose": 0, "waiting": 0, "over": False, "changed": threading.Condition()}
    clocks, threads, experiments = [], [], [build(model, idle, turns * steps, folder) for idle in (False, True)]
    for number, experiment in enumerate(experiments):
        if number == 0:
            callbacks = experiment.trainer.callbacks
            callbacks.remove(next(callback for callback in callbacks if isinstance(callback, Editing)))
            for name, parameter in experiment.model.named_parameters():
                parameter.requires_grad_(name in trainable(first.model))
        clocks.append(Turns(number, shared, steps))
        experiment.trainer.callbacks.append(clocks[-1])
        threads.append(threading.Thread(target=experiment.run, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if trainable(experiments[0].model) != trainable(experiments[1].model):
        raise SystemExit("the arms do not train the same parameters")
    without, idle = ([statistics.median(turn) for turn in clock.turns[2:-1]] for clock in clocks)
    return without, idle


def idle_steps(model: str, turns: int, steps: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        without, idle = quietly(both_arms, model, turns, steps, folder)
    ratios = [b / a for a, b in zip(without, idle, strict=True)]
    spread = statistics.quantiles(ratios, n=4)
    text = (
        f"training step of a small {model} beside four idle techniques (quartiles {spread[0]:.3f} to {spread[2]:.3f})"
    )
    return Row(text, "the same without them", spread[1], duration(statistics.median(without)), at_most(1.02))


def ten_edits(model: nn.Module) -> None:
    """Returns ten sets of adapters on disjoint layers that together are all layers of the model."""
    layers = [name for name in adaptable(model, ["Linear"]) if name.startswith("blocks.")]
    for number in range(10):
        technique = LoRA(target_modules=layers[number::10], trainable_modules=[])
        technique.name = f"lora_{number}"
        edit_model(model, technique)


def replay_ledger(repeats: int) -> Row:
    import timm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edited.ckpt"
        fresh = timm.create_model("vit_base_patch16_224", num_classes=10)
        edited = copy.deepcopy(fresh)
        ten_edits(edited)
        torch.save({"state_dict": edited.state_dict(), "editing": ledger_of(edited).to_plain()}, path)
        adapters = sum("lora_A" in name for name, _ in edited.named_parameters())
        loading, replaying = [], []
        for number in range(repeats + 1):
            model = copy.deepcopy(fresh)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            start = time.perf_counter()
            framework.replay(model, checkpoint)
            replayed = time.perf_counter() - start
            start = time.perf_counter()
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(checkpoint["state_dict"])
            loaded = time.perf_counter() - start
            if number:  # the first one warms up
                replaying.append(replayed)
                loading.append(loaded)
        if any(not torch.equal(value, model.state_dict()[name]) for name, value in edited.state_dict().items()):
            raise SystemExit("the repeated model is another one")
    ratio = statistics.median(a / b for a, b in zip(replaying, loading, strict=True))
    text = f"repeating a ledger of 10 edits of {adapters} layers of a ViT-B/16"
    return Row(text, "loading its weights", ratio, duration(statistics.median(loading)), at_most(2.0))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.only != "step":
        yield replay_ledger(options.repeats)
    if options.only != "replay":
        for model in MODELS:
            yield idle_steps(model, options.turns, options.steps)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=("step", "replay"))
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--steps", type=int, default=23, help="steps in a turn; an epoch of the digits has 23")
    parser.add_argument("--repeats", type=int, default=7)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
