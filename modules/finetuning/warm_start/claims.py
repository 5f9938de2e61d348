"""What the warm-start paper says, in a form that can fail: on MNIST-1D, half of the signals and then all.

The networks of all seeds and settings are trained together, their weights stacked
(:mod:`modules.finetuning.warm_start.stacked`); one of them is trained by ``fit`` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, close_to
from framework.data.loader import ExactLoader
from framework.figures import new_figure
from modules.finetuning.warm_start import OnlineLearner, gradient_ratio, prediction_entropy, stacked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Setting = tuple[float, float]  # (shrink, perturb)

CONFIG = "finetuning/warm_start"
MORE_TEST_DATA = "--data.base_args={samples: 12000, test_fraction: 0.6667}"
RI, WS = (0.0, 1.0), (1.0, 0.0)
SHRINKS = (0.2, 0.4, 0.6, 0.8)
PERTURB = 0.1
SEEDS = tuple(range(8))
GRID = tuple((shrink, perturb) for shrink in (0.2, 0.4, 0.6, 0.8, 1.0) for perturb in (0.0, 0.1, 0.5))
GRID_SEEDS = SEEDS[:2]
SCALE = "MNIST-1D, 2,000 then 4,000 signals, tested on 8,000; MLP 40-100-100-10, 8 seeds"
# Reference values of prediction entropy on the test part after the first phase, in nats.
ENTROPY = {WS: 0.51, (0.8, 0.1): 0.90, (0.6, 0.1): 1.52, (0.4, 0.1): 2.12}
# Reference values of the ratio of gradient norms, new signals over old, and what is required.
RATIOS = {
    WS: ("5.0, 5.5", at_least(3.5)),
    (0.6, 0.1): ("1.20, 1.25", at_most(1.6)),
    (0.4, 0.1): ("0.96", at_most(1.2)),
}


def claims(run: Reproduction) -> Iterator[Claim]:
    """The first phase and what is measured after it, the second phase from each start, and one seed through ``fit``."""
    task = _Task.of_config(MORE_TEST_DATA)
    first = first_phase(task, SEEDS)
    yield from imbalance(run, task, first)
    results = second_phase(task, first)
    yield from effects(run, results)
    yield from through_fit(run, task, first, results)


@dataclass
class _Task:
    """The data and the training of the shipped config.

    Attributes:
        x: Training signals ``(N, 40)``.
        y: Their classes ``(N,)``.
        x_test: Test signals.
        y_test: Their classes.
        half: Signals in the first round.
        revealed: From a seed to the rows in the order in which they are revealed ``(N,)``.
        batch_size: Of training.
        lr: Learning rate.
        threshold: Accuracy at which a round ends.
        max_epochs: Of a round.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    half: int
    revealed: Callable[[int], Tensor]
    batch_size: int
    lr: float
    threshold: float
    max_epochs: int

    @classmethod
    def of_config(cls, *overrides: str) -> _Task:
        """Reads them from the config, the data from its datamodule."""
        from framework.runs.experiment import build

        silent = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false"]
        experiment = build(CONFIG, overrides=[*overrides, *silent])
        data: Any = experiment.datamodule
        data.setup()
        (x, y), (x_test, y_test) = data.base.train_set.tensors, data.test_set.tensors
        ends = experiment.config["techniques"]["accuracy_threshold"]["init_args"]

        def revealed(seed: int) -> Tensor:
            ordered = type(data)(base=data.base, per_round=data.per_round, order_seed=seed)
            ordered.setup()
            return ordered.order

        return cls(
            x=x,
            y=y,
            x_test=x_test,
            y_test=y_test,
            half=data.samples_in(0),
            revealed=revealed,
            batch_size=data.batch_size,
            lr=experiment.model.optimizer_config.lr,  # type: ignore[union-attr,arg-type]
            threshold=ends["threshold"],
            max_epochs=ends["max_epochs"],
        )

    def train(
        self, start: stacked.Weights, seeds: Sequence[int], samples: int, from_epochs: Sequence[int]
    ) -> tuple[stacked.Weights, list[int], list[list[float]]]:
        """Trains a stack on the first ``samples`` signals that each model's seed reveals, in the order of ``fit``."""
        rows = {seed: self.revealed(seed)[:samples] for seed in set(seeds)}
        loaders = {seed: ExactLoader(range(samples), self.batch_size, shuffle=True, seed=seed) for seed in set(seeds)}

        def order(model: int, epoch: int) -> Tensor:
            loader = loaders[seeds[model]]
            loader.set_epoch(from_epochs[model] + epoch)
            return rows[seeds[model]][loader.share(1, 0)]

        return stacked.train(start, self.x, self.y, order, self.threshold, self.max_epochs, self.batch_size, self.lr)


def network(seed: int) -> nn.Module:
    """Returns the config's network, drawn from ``seed`` as ``fit`` draws it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OnlineLearner().net


def fresh_seed(seed: int) -> int:
    """Of the fresh weights of the second round."""
    return 1000 * (seed + 1)


@dataclass
class FirstPhase:
    """The networks after half of the data: stacked weights, epochs, the mean loss of each epoch, and fresh weights."""

    weights: stacked.Weights
    epochs: list[int]
    losses: list[list[float]]
    fresh: stacked.Weights

    def start(self, setting: Setting, models: Sequence[int]) -> stacked.Weights:
        """Shrunk and perturbed weights of some models."""
        index = torch.tensor(models)
        factors = [torch.full((len(models),), factor) for factor in setting]
        old, new = stacked.rows_of(self.weights, index), stacked.rows_of(self.fresh, index)
        return stacked.mixed(factors[0], old, factors[1], new)


def first_phase(task: _Task, seeds: Sequence[int]) -> FirstPhase:
    """Trains a network for each seed on the half of the data that this seed reveals first."""
    start = stacked.stack([network(seed) for seed in seeds])
    weights, epochs, losses = task.train(start, seeds, task.half, [0] * len(seeds))
    # the technique adds the number of the round to its seed
    fresh = stacked.stack([network(fresh_seed(seed) + 1) for seed in seeds])
    return FirstPhase(weights, epochs, losses, fresh)


def imbalance(run: Reproduction, task: _Task, first: FirstPhase) -> Iterator[Claim]:
    """Gradients on new signals against old ones, and the entropy of predictions, right after the first phase."""
    settings = (WS, (0.8, 0.1), (0.6, 0.1), (0.4, 0.1))
    net = network(0)
    ratios: dict[Setting, list[float]] = {}
    entropies: dict[Setting, list[float]] = {}
    for setting in settings:
        start = first.start(setting, range(len(SEEDS)))
        entropies[setting] = prediction_entropy(stacked.predict(start, task.x_test)).tolist()
        ratios[setting] = []
        for model, seed in enumerate(SEEDS):
            rows = task.revealed(seed)
            old, new = ((task.x[part], task.y[part]) for part in (rows[: task.half], rows[task.half :]))
            ratios[setting].append(gradient_ratio(stacked.unstack(start, model, net), old, new, task.batch_size))
    for setting, (reference, bound) in RATIOS.items():
        yield Claim(
            f"gradient norm, unseen half over seen half, {named(setting)}, mean of 8 seeds",
            f"large for WS, near 1 when shrunk; reference {reference}",
            mean(ratios[setting]),
            bound,
            scale=SCALE,
            details={"seeds": ratios[setting]},
            seeds=len(SEEDS),
        )
    for setting, reference_value in ENTROPY.items():
        yield Claim(
            f"entropy of test predictions, {named(setting)}, mean of 8 seeds (nats)",
            f"rises as λ falls; reference {reference_value:.2f}",
            mean(entropies[setting]),
            close_to(reference_value, absolute=0.15),
            scale=SCALE,
            details={"seeds": entropies[setting]},
            seeds=len(SEEDS),
        )
    steps = [
        after - before for a, b in pairwise(settings) for before, after in zip(entropies[a], entropies[b], strict=True)
    ]
    yield Claim(
        "smallest rise of the entropy of any seed from one λ to the next",
        "> 0",
        min(steps),
        at_least(1e-3),
        scale=SCALE,
        seeds=len(SEEDS),
    )
    run.figure("after_first_phase", imbalance_figure(ratios, entropies))


@dataclass
class Results:
    """For each start the test accuracy in points and the epochs of the second phase, by seed."""

    accuracy: dict[Setting, dict[int, float]]
    epochs: dict[Setting, dict[int, int]]

    def mean_accuracy(self, setting: Setting) -> float:
        """Over the seeds."""
        return mean(self.accuracy[setting].values())

    def mean_epochs(self, setting: Setting) -> float:
        """Over the seeds."""
        return mean(self.epochs[setting].values())


def second_phase(task: _Task, first: FirstPhase) -> Results:
    """Trains every seed from every start on all the data."""
    settings = [RI, WS, *((shrink, PERTURB) for shrink in SHRINKS)]
    cells = [(setting, seed) for setting in settings for seed in SEEDS]
    cells += [(setting, seed) for setting in GRID if setting not in settings for seed in GRID_SEEDS]
    starts = [first.start(setting, [SEEDS.index(seed)]) for setting, seed in cells]
    stack = [
        (torch.cat([layers[i][0] for layers in starts]), torch.cat([layers[i][1] for layers in starts]))
        for i in range(len(starts[0]))
    ]
    seeds = [seed for _, seed in cells]
    weights, epochs, _ = task.train(stack, seeds, len(task.x), [first.epochs[SEEDS.index(seed)] for seed in seeds])
    right = (stacked.predict(weights, task.x_test).argmax(-1) == task.y_test).double().mean(1)
    results = Results({}, {})
    for (setting, seed), accuracy, count in zip(cells, right.tolist(), epochs, strict=True):
        results.accuracy.setdefault(setting, {})[seed] = 100 * accuracy
        results.epochs.setdefault(setting, {})[seed] = count
    return results


def effects(run: Reproduction, results: Results) -> Iterator[Claim]:
    """Accuracy and cost of the second phase."""
    sp = (0.6, PERTURB)
    accuracy = {named(setting): list(results.accuracy[setting].values()) for setting in (RI, WS, sp)}
    epochs = {named(setting): list(results.epochs[setting].values()) for setting in (RI, WS, sp)}
    yield Claim(
        "test accuracy, random initialisation − warm start (points)",
        "4.5 (ResNet, SGD, CIFAR-10, Table 1)",
        results.mean_accuracy(RI) - results.mean_accuracy(WS),
        at_least(0.8),
        scale=SCALE,
        details=accuracy,
        seeds=len(SEEDS),
    )
    yield Claim(
        "test accuracy, |λ = 0.6 − random initialisation| (points)",
        "equal",
        abs(results.mean_accuracy(sp) - results.mean_accuracy(RI)),
        at_most(0.6),
        scale=SCALE,
        details=accuracy,
        seeds=len(SEEDS),
    )
    yield Claim(
        "epochs of the second phase, λ = 0.6 over random initialisation",
        "much faster",
        results.mean_epochs(sp) / results.mean_epochs(RI),
        at_most(0.85),
        scale=SCALE,
        details=epochs,
        seeds=len(SEEDS),
    )
    yield Claim(
        "epochs of the second phase, warm start over λ = 0.6",
        "warm start is fastest",
        results.mean_epochs(WS) / results.mean_epochs(sp),
        Bound("< 1", lambda ratio: ratio < 1),
        scale=SCALE,
        details=epochs,
        seeds=len(SEEDS),
    )
    run.figure("second_phase", effects_figure(results))


def through_fit(run: Reproduction, task: _Task, first: FirstPhase, results: Results) -> Iterator[Claim]:
    """Seed 0 with λ = 0.6 through ``fit``: the same start and the same batches, so nearly the same path."""
    from framework.tracking.metrics_log import read_metrics

    overrides = [f"--seed_everything={SEEDS[0]}", f"--techniques.warm_start.seed={fresh_seed(SEEDS[0])}"]
    measured = run.fit(CONFIG, MORE_TEST_DATA, *overrides)
    folder = max((run.folder / "runs").glob("*/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime_ns).parent
    rows = [row for row in read_metrics(folder) if "train/loss" in row]
    losses = first.losses[0]
    difference = max(abs(row["train/loss"] / loss - 1) for row, loss in zip(rows[:5], losses[:5], strict=True))
    yield Claim(
        "seed 0 through fit: training loss of the first five epochs, relative difference",
        "none",
        difference,
        at_most(1e-3),
        scale=SCALE,
    )
    sp = (0.6, PERTURB)
    epochs = [float(sum(row["round/number"] == number for row in rows)) for number in (0, 1)]
    batched = [float(first.epochs[0]), float(results.epochs[sp][SEEDS[0]])]
    yield Claim(
        "seed 0 through fit: epochs of both phases over those of the stack",
        "none",
        sum(epochs) / sum(batched),
        close_to(1.0, absolute=0.05),
        scale=SCALE,
        details={"fit": epochs, "stack": batched},
    )
    yield Claim(
        "seed 0 through fit: test accuracy − that of the stack (points)",
        "none",
        100 * measured["val/accuracy"] - results.accuracy[sp][SEEDS[0]],
        close_to(0.0, absolute=1.0),
        scale=SCALE,
        details={"fit": 100 * measured["val/accuracy"], "stack": results.accuracy[sp][SEEDS[0]]},
    )


def mean(values: Any) -> float:
    """Returns the mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)


def named(setting: Setting) -> str:
    """Returns a start in words."""
    if setting in (RI, WS):
        return "random initialisation" if setting == RI else "warm start"
    return f"λ = {setting[0]:g}, γ = {setting[1]:g}"


def imbalance_figure(ratios: Mapping[Setting, Sequence[float]], entropies: Mapping[Setting, Sequence[float]]) -> Figure:
    """Draws both measures after the first phase against λ: one line a seed, the mean in black."""
    figure = new_figure(1, 2)
    labels = ["1\n(warm start)" if setting == WS else f"{setting[0]:g}" for setting in ratios]
    places = list(range(len(labels)))
    panels = (
        (ratios, "gradient norm, unseen / seen"),
        (entropies, "entropy of test predictions [nats]"),
    )
    for axes, (values, label) in zip(figure.axes, panels, strict=True):
        for seed in range(len(next(iter(values.values())))):
            axes.plot(places, [values[setting][seed] for setting in ratios], color="C0", alpha=0.25, linewidth=1)
        axes.plot(places, [mean(values[setting]) for setting in ratios], "ko-", markersize=4, label="mean")
        axes.set_xticks(places, labels=labels)
        axes.set(xlabel="shrink λ (perturb γ = 0.1)", ylabel=label, ylim=(0, None))
    figure.axes[0].axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    figure.axes[0].legend(frameon=False)
    return figure


def effects_figure(results: Results) -> Figure:
    """Draws accuracy and epochs of the second phase against λ, and accuracy over the grid of (λ, γ)."""
    figure = new_figure(1, 3, size=(13.5, 3.6))
    pairs: tuple[tuple[Mapping[Setting, Mapping[int, float]], str], ...] = (
        (results.accuracy, "test accuracy [%]"),
        (results.epochs, "epochs of the second phase"),
    )
    for axes, (values, label) in zip(figure.axes[:2], pairs, strict=True):
        for setting, colour in ((RI, "C2"), (WS, "C3")):
            axes.axhline(mean(values[setting].values()), color=colour, label=named(setting), linewidth=1.5)
        for shrink in SHRINKS:
            found = list(values[(shrink, PERTURB)].values())
            axes.plot([shrink] * len(found), found, ".", color="C0", alpha=0.35)
        axes.plot(SHRINKS, [mean(values[(s, PERTURB)].values()) for s in SHRINKS], "o-", color="C0", label="γ = 0.1")
        axes.set(xlabel="shrink λ", ylabel=label)
    figure.axes[0].legend(frameon=False, fontsize=8)
    axes = figure.axes[2]
    shrinks = sorted({shrink for shrink, _ in GRID})
    perturbs = sorted({perturb for _, perturb in GRID})
    table = torch.tensor(
        [[mean(results.accuracy[(s, p)][seed] for seed in GRID_SEEDS) for s in shrinks] for p in perturbs]
    )
    image = axes.imshow(table.numpy(), origin="lower", aspect="auto", cmap="viridis")
    for row in range(len(perturbs)):
        for column in range(len(shrinks)):
            cell = float(table[row, column])
            dark = cell < float(table.min() + table.max()) / 2
            axes.text(
                column, row, f"{cell:.1f}", ha="center", va="center", color="white" if dark else "black", fontsize=8
            )
    axes.set_xticks(range(len(shrinks)), labels=[f"{s:g}" for s in shrinks])
    axes.set_yticks(range(len(perturbs)), labels=[f"{p:g}" for p in perturbs])
    axes.set(xlabel="shrink λ", ylabel="perturb γ", title=f"test accuracy [%], {len(GRID_SEEDS)} seeds")
    figure.colorbar(image, ax=axes)
    return figure
