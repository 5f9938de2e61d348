"""The MixtureGrowth paper's claims in a form that can fail: perceptrons on MNIST-1D, grown and trained in full.

Every network is trained by a plain loop, with the technique's own plans; one of them by ``fit`` too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from callbacks.mixture_growth.callback import MixtureGrowth
from callbacks.mixture_growth.conversion import convert_to_templates, set_phase
from framework.claims import Claim, Reproduction, at_least, at_most, close_to
from framework.data.loader import ExactLoader
from framework.editing import Context, edit, stage_of
from framework.figures import new_figure
from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule, changed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = "initialization/mixture_growth"
SEEDS = tuple(range(5))
MODES = ("orthogonal", "none", "zero", "copy", "random")
GROWN_EPOCHS, SCRATCH, HALF = 10, 35, 60  # after growing; full width, and half of it, from the start
SCALE = f"MNIST-1D, 4,000 signals each to train and test on; MLP 40-128-128-128-10, {len(SEEDS)} seeds"
NAMES = {"scratch": "full width from scratch", "half": "half width", "net2net": "half width, widened by Net2Net"}


@dataclass
class _Task:
    """The data and the training of the shipped config.

    Attributes:
        model: The config's module, as a pattern for others.
        settings: The technique's arguments.
        x: Training signals ``(N, 40)``.
        y: Their classes ``(N,)``.
        x_test: Test signals.
        y_test: Their classes.
        batch_size: Of training.
        optimizer: The module's.
        schedule: The module's.
        flops: FLOPs of a training step of one sample, by structure.
    """

    model: Any
    settings: dict[str, Any]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    batch_size: int
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    flops: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_config(cls) -> _Task:
        """Reads them from the config, the data from its datamodule."""
        from framework.runs.experiment import build

        experiment = build(CONFIG, overrides=["--wandb.mode=disabled", "--trainer.enable_progress_bar=false"])
        data: Any = experiment.datamodule
        model: Any = experiment.model
        data.setup("fit")
        settings = experiment.config["techniques"]["mixture_growth"]["init_args"]
        (x, y), (x_test, y_test) = data.train_set.tensors, data.test_set.tensors
        batch, configs = data.batch_size, (model.optimizer_config, model.schedule_config)
        return cls(model, settings, x, y, x_test, y_test, batch, *configs)

    def network(self, seed: int, widths: Sequence[int] | None = None) -> pl.LightningModule:
        """Returns the config's module as ``fit`` draws it from a seed, or one of other widths."""
        pl.seed_everything(seed, verbose=False)
        arguments = {key: value for key, value in self.model.hparams.items() if not key.startswith("_")}
        return type(self.model)(**{**arguments, **({} if widths is None else {"widths": list(widths)})})

    def train(
        self, model: nn.Module, seed: int, epochs: int, start: int = 0, lr: float | None = None, **schedule: Any
    ) -> list[float]:
        """Trains in the order of ``fit``, on the schedule over these epochs; gives the test accuracy after each.

        Args:
            model: In place.
            seed: Seed of the order.
            epochs: Number of epochs.
            start: Epochs of the run before these.
            lr: Instead of the config's.
            **schedule: Instead of the config's.
        """
        config = changed(self.optimizer, {} if lr is None else {"lr": lr}, "optimizer")
        optimizer = build_optimizer(model, config)
        loader = ExactLoader(range(len(self.x)), self.batch_size, shuffle=True, seed=seed)
        steps = epochs * len(loader)
        scheduler = build_schedule(optimizer, changed(self.schedule, schedule, "schedule"), steps, len(loader))
        curve = []
        for epoch in range(start, start + epochs):
            model.train()
            loader.set_epoch(epoch)
            for rows in loader.share(1, 0).split(self.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(model(self.x[rows]), self.y[rows]).backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
            curve.append(self.accuracy(model))
        return curve

    @torch.no_grad()
    def logits(self, model: nn.Module) -> Tensor:
        """Of the test part, in evaluation mode."""
        return model.eval()(self.x_test)

    def accuracy(self, model: nn.Module) -> float:
        """On the test part, in per cent."""
        return self.of_logits(self.logits(model))

    def of_logits(self, logits: Tensor) -> float:
        """Accuracy of test logits, in per cent."""
        return 100 * float((logits.argmax(-1) == self.y_test).float().mean())

    def epoch_flops(self, model: nn.Module) -> float:
        """FLOPs of training a model for one epoch."""
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(model(self.x[: self.batch_size]), self.y[: self.batch_size]).backward()
        model.zero_grad()
        return counter.get_total_flops() * len(self.x) / self.batch_size


@dataclass
class _Outcome:
    """What one seed gave.

    Attributes:
        members: Accuracy of each member at its end.
        ensemble: Of the sum of their logits.
        sum_error: Largest difference of the logits of the network grown with ``zero`` from that sum.
        after: Right after growing, by mode.
        curves: Accuracy after each epoch, by way of training; of the grown ones after both members.
        first: That of the members, one after the other.
        flops: FLOPs of an epoch: ``half``, ``member``, ``grown``, ``full``.
    """

    members: list[float]
    ensemble: float
    sum_error: float = 0.0
    after: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    flops: dict[str, float] = field(default_factory=dict)


def widened(half: nn.Module, full: nn.Module, noise: float = 0.01) -> nn.Module:
    """Net2WiderNet (Chen et al. 2016, arXiv 1511.05641): each unit twice, what it sends on halved, a little noise.

    Args:
        half: Linear layers and batch norms in a row.
        full: The same of twice the width; its values are replaced.
        noise: Deviation of the noise over that of a weight.
    """
    pairs = list(zip(half.modules(), full.modules(), strict=True))
    linear = [(a, b) for a, b in pairs if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)]
    with torch.no_grad():
        for number, (old, new) in enumerate(linear):
            weight = old.weight.repeat(new.out_features // old.out_features, 1)
            weight = weight.repeat(1, new.in_features // old.in_features) / (2 if number else 1)
            new.weight.copy_(weight + noise * weight.std() * torch.randn_like(weight))
        for small, large in pairs:
            if isinstance(small, nn.BatchNorm1d) and isinstance(large, nn.BatchNorm1d):
                for name, value in small.state_dict().items():
                    large.state_dict()[name].copy_(value.repeat(2) if value.ndim else value)
    return full


def outcome(task: _Task, seed: int) -> _Outcome:
    """Everything for one seed."""
    technique = MixtureGrowth(**task.settings)
    first, second = technique.member_epochs
    model = task.network(seed)
    edit(model, technique)
    flops = {"member": task.epoch_flops(model)}
    curve = task.train(model, seed, first)
    sums = task.logits(model)
    edit(model, technique, Context(at="epoch", epoch=first))
    curve += task.train(model, seed, second, first)
    sums = sums + task.logits(model)
    result = _Outcome([curve[first - 1], curve[-1]], task.of_logits(sums), first=curve)
    for mode in MODES:
        grown = copy.deepcopy(model)
        edit(grown, MixtureGrowth(**{**task.settings, "mode": mode}), Context(at="epoch", epoch=first + second))
        logits = task.logits(grown)
        result.after[mode] = task.of_logits(logits)
        if mode == "zero":
            result.sum_error = float((logits - sums).abs().max())
        stage = stage_of(grown)
        epochs = GROWN_EPOCHS
        flops["grown"] = task.epoch_flops(grown) if mode == "orthogonal" else flops["grown"]
        result.curves[mode] = task.train(grown, seed, epochs, first + second, **stage.optimizer, **stage.schedule)
    widths = list(task.model.hparams["widths"])
    full = task.network(seed)
    flops["full"] = task.epoch_flops(full)
    result.curves["scratch"] = task.train(full, seed, SCRATCH)
    half = task.network(seed, [width // 2 for width in widths])
    flops["half"] = task.epoch_flops(half)
    result.curves["half"] = task.train(half, seed, HALF)
    half = task.network(seed, [width // 2 for width in widths])
    start = task.train(half, seed, first + second)
    wide = widened(half, task.network(seed))
    late = {} if technique.growth_lr is None else {"lr": technique.growth_lr}
    result.curves["net2net"] = [*start, *task.train(wide, seed, GROWN_EPOCHS, first + second, **late)]
    result.flops = flops
    return result


def claims(run: Reproduction) -> Iterator[Claim]:
    """Costs first, then the experiment, then one seed through ``fit``."""
    task = _Task.of_config()
    yield from costs()
    results = []
    for seed in SEEDS:
        results.append(outcome(task, seed))
        shown = {mode: f"{results[-1].after[mode]:.1f}→{results[-1].curves[mode][-1]:.1f}" for mode in MODES}
        print(f"  seed {seed}: members {results[-1].members}, {shown}", flush=True)
    yield from effects(run, task, results)
    yield from through_fit(run, results[0])


def costs() -> Iterator[Claim]:
    """FLOPs of a member over those of the whole, in the layers that are split both ways."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(128, 128, bias=False), nn.Linear(128, 128, bias=False), nn.Linear(128, 128, bias=False)
    )
    convert_to_templates(net)
    hidden: Any = net[1]
    counts = []
    for phase, width in ((0, 64), (2, 128)):
        set_phase(net, phase)
        with FlopCounterMode(display=False) as counter:
            hidden(torch.randn(128, width, requires_grad=True)).sum().backward()
        counts.append(counter.get_total_flops())
    yield Claim("FLOPs of a hidden layer: member / grown", "1/4", counts[0] / counts[1], close_to(0.25, relative=0.01))


def mean(values: Any) -> float:
    """Returns the mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)


def effects(run: Reproduction, task: _Task, results: Sequence[_Outcome]) -> Iterator[Claim]:
    """Accuracies and costs, over all seeds, in points."""
    end = {way: [r.curves[way][-1] for r in results] for way in (*MODES, *NAMES)}
    best = [max(r.members) for r in results]
    grown = end["orthogonal"]
    table = {"members": [r.members for r in results], "ensemble": [r.ensemble for r in results]}
    table |= {"right after": {mode: [r.after[mode] for r in results] for mode in MODES}, "end": end}  # type: ignore[dict-item]
    gain = [a - b for a, b in zip(grown, best, strict=True)]
    yield Claim(
        "grown − better member (points)",
        "better",
        mean(gain),
        at_least(1.0),
        scale=SCALE,
        details={"seeds": gain, **table},
        seeds=len(SEEDS),
    )
    lost = [a - b for a, b in zip(grown, end["scratch"], strict=True)]
    yield Claim(
        "grown − full width from scratch (points)",
        "comparable",
        mean(lost),
        at_least(-1.5),
        scale=SCALE,
        details={"seeds": lost},
        seeds=len(SEEDS),
    )
    wider = [a - b for a, b in zip(grown, end["half"], strict=True)]
    yield Claim(
        f"grown − half width, {HALF} epochs (points)",
        "better",
        mean(wider),
        at_least(1.0),
        scale=SCALE,
        details={"seeds": wider},
        seeds=len(SEEDS),
    )
    cost = results[0].flops
    spent = sum(MixtureGrowth(**task.settings).member_epochs) * cost["member"] + GROWN_EPOCHS * cost["grown"]
    ratio = spent / (SCRATCH * cost["full"])
    yield Claim("… at this share of its training FLOPs", "fewer", ratio, at_most(0.72), scale=SCALE, details=cost)
    error = max(r.sum_error for r in results)
    yield Claim(
        "zero: logits right after growing − sum of the members', largest",
        "equal",
        error,
        at_most(1e-4),
        scale=SCALE,
        seeds=len(SEEDS),
    )
    leads = [r.after["orthogonal"] - r.after["copy"] for r in results]
    yield Claim(
        "right after growing: orthogonal − copy (points)",
        "none",
        mean(leads),
        at_least(15.0),
        scale=SCALE,
        details={"seeds": leads},
        seeds=len(SEEDS),
    )
    means = {mode: mean(end[mode]) for mode in MODES}
    yield Claim(
        f"after {GROWN_EPOCHS} epochs: best mode − worst (points)",
        "none",
        max(means.values()) - min(means.values()),
        at_most(2.0),
        scale=SCALE,
        details=means,
        seeds=len(SEEDS),
    )
    run.figure("growth", growth_figure(results, MixtureGrowth(**task.settings).member_epochs))


def through_fit(run: Reproduction, result: _Outcome) -> Iterator[Claim]:
    """Seed 0 by the command: the same curve."""
    from framework.tracking.metrics_log import read_metrics

    run.fit(CONFIG, f"--seed_everything={SEEDS[0]}")
    folder = max((run.folder / "runs").glob("*/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime_ns).parent
    found = [100 * row["val/accuracy"] for row in read_metrics(folder) if "val/accuracy" in row]
    expected = [*result.first, *result.curves["orthogonal"]]
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    yield Claim(
        "seed 0 through fit: test accuracy after each of 60 epochs, largest difference (points)",
        "none",
        worst,
        at_most(0.5),
        scale=SCALE,
        details={"fit": found, "loop": expected},
    )


def growth_figure(results: Sequence[_Outcome], member_epochs: Sequence[int]) -> Figure:
    """Draws accuracy against training FLOPs of each way, and before and after the last epochs of each mode."""
    figure = new_figure(1, 2, size=(11.5, 4.0))
    axes, bars = figure.axes
    cost = results[0].flops
    members = [cost["member"]] * sum(member_epochs)
    grown = [cost["grown"]] * GROWN_EPOCHS
    spent: Mapping[str, list[float]] = {
        "scratch": [cost["full"]] * SCRATCH,
        "half": [cost["half"]] * HALF,
        "net2net": [cost["half"]] * sum(member_epochs) + [cost["full"]] * GROWN_EPOCHS,
    }

    def curve(values: Sequence[Sequence[float]], flops: Sequence[float], colour: str, label: str, style: str) -> None:
        table = torch.tensor([list(v) for v in values])
        at = torch.tensor(flops).cumsum(0) / 1e9
        axes.plot(at, table.mean(0), style, color=colour, label=label, linewidth=1.4)
        low, high = table.min(0).values, table.max(0).values
        axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)

    for colour, (way, name) in zip(("C7", "C1", "C2"), NAMES.items(), strict=True):
        curve([r.curves[way] for r in results], spent[way], colour, name, "-")
    curve([[*r.first, *r.curves["orthogonal"]] for r in results], members + grown, "C0", "members, then grown", "-")
    late = [r.curves["random"] for r in results]
    start = sum(members) / 1e9
    at = start + torch.tensor(grown).cumsum(0) / 1e9
    axes.plot(at, torch.tensor(late).mean(0), "--", color="C3", label="grown with random coefficients", linewidth=1.2)
    axes.axvline(start, color="0.6", linewidth=0.8, linestyle=":")
    low = min(min(r.curves["scratch"]) for r in results)
    axes.set(xlabel="training GFLOPs so far", ylabel="test accuracy [%]", xlim=(0, None), ylim=(max(30.0, low), None))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    places = torch.arange(len(MODES), dtype=torch.float)
    for shift, colour, label, values in (
        (-0.2, "C9", "right after growing", [[r.after[mode] for r in results] for mode in MODES]),
        (0.2, "C0", f"{GROWN_EPOCHS} epochs later", [[r.curves[mode][-1] for r in results] for mode in MODES]),
    ):
        bars.bar(places + shift, [mean(v) for v in values], 0.38, color=colour, label=label)
        for place, seeds in zip(places + shift, values, strict=True):
            bars.plot([float(place)] * len(seeds), seeds, ".", color="black", markersize=3, alpha=0.6)
    best = mean(max(r.members) for r in results)
    bars.axhline(best, color="0.3", linewidth=0.9, linestyle="--", label="better member")
    bars.set_xticks(places, MODES)
    bars.set(ylabel="test accuracy [%]", ylim=(0, 90))
    bars.legend(frameon=False, fontsize=8, loc="upper center", ncols=3)
    return figure
