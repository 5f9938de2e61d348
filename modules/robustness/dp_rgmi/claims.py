"""What the paper says of private training, on five attributes of MNIST's digits, in a form that can fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, over_seeds
from modules.robustness.dp_rgmi.plots import association_figure, budget_figure, geometry_figure, spectra_figure
from modules.robustness.dp_rgmi.study import NUMBERS, Checkpoint, associations, read_checkpoint

if TYPE_CHECKING:
    from framework.runs.experiment import Experiment

CONFIG = "robustness/dp_rgmi"
FASHION = Path("/usr/share/datasets/fashion-mnist")
SEEDS = (0, 1, 2)
REPORTED = Bound("reported", math.isfinite)
SMALL = "4,000 digits of MNIST, five attributes, a CNN of 24,000 weights, 15 epochs; pretrained on {}"
BUDGETS = {
    "none": ("--techniques.dp_sgd=null",),
    "clipped": ("--techniques.dp_sgd.epsilon=null", "--techniques.dp_sgd.noise_multiplier=0"),
    "8": ("--techniques.dp_sgd.epsilon=8",),
    "2": ("--techniques.dp_sgd.epsilon=2",),
    "0.5": ("--techniques.dp_sgd.epsilon=0.5",),
}
# Budgets and seeds of each start. What only clips has no epsilon: one run stands beside all private ones of its start.
RUNS = {
    "photographs": {"none": SEEDS, "clipped": SEEDS[:1], "8": SEEDS, "2": SEEDS, "0.5": SEEDS},
    "random": {"none": SEEDS, "clipped": SEEDS[:1], "2": SEEDS},
}
FASHION_RUNS: dict[str, dict[str, tuple[int, ...]]] = {"fashion": {"none": (0,), "8": (0,), "2": (0, 1), "0.5": (0,)}}


def checkpoint(experiment: Experiment, seconds: float) -> Checkpoint:
    """Reads the reports of a run."""
    return read_checkpoint(experiment.folder)


def pretrained(run: Reproduction, name: str, *overrides: str) -> Path:
    """Writes the weights of a network trained on public images, from which all runs of a start begin.

    Args:
        run: The reproduction.
        name: Of the start, and of the file.
        *overrides: Options of the config that choose the public images.
    """
    from framework.runs.experiment import build

    experiment: Any = build(
        CONFIG, overrides=[*overrides, f"--run.root={run.folder / 'runs'}", "--wandb.mode=disabled"]
    )
    experiment.datamodule.setup("fit")
    model, source = experiment.model, experiment.datamodule.source
    model.pretrain(source["x"], source["y"], model.hparams["pretrain_epochs"])
    path = run.folder / f"{name}.pt"
    torch.save(model.backbone.state_dict(), path)
    return path.resolve()


def claims(run: Reproduction) -> Iterator[Claim]:
    """The gap over budgets, with public photographs and a random start; with Fashion-MNIST where it is installed."""
    weights = pretrained(run, "photographs")
    found = trained(run, RUNS, {"photographs": weights})
    yield from gaps(found, "photographs", SMALL.format("pieces of 16 photographs"))
    yield from over_budgets(found, "photographs", "three seeds, with and without pretraining")
    figures = {
        "budgets": budget_figure(found),
        "geometry": geometry_figure(found),
        "spectra": spectra_figure(found),
        "associations": association_figure(found, NUMBERS),
    }
    for name, figure in figures.items():
        run.figure(name, figure)
    yield from fashion(run, [c for privacy in ("none", "2") for c in _of(found, "random", privacy) if c.seed == 0])


def fashion(run: Reproduction, others: list[Checkpoint]) -> Iterator[Claim]:
    """The same after public pretraining on Fashion-MNIST, beside two checkpoints from random weights."""
    if not FASHION.is_dir():
        print(f"  left out: pretraining on Fashion-MNIST, {FASHION} is not installed (Debian: dataset-fashion-mnist)")
        return
    weights = pretrained(run, "fashion", "--data.public=idx", f"--data.public_path={FASHION}")
    found = [*trained(run, FASHION_RUNS, {"fashion": weights}), *others]
    yield from gaps(found, "fashion", SMALL.format("8,000 images of Fashion-MNIST"))
    yield from over_budgets(found, "fashion", "pretrained on Fashion-MNIST and not; seven checkpoints")
    run.figure("fashion", budget_figure(found))


def trained(
    run: Reproduction, runs: dict[str, dict[str, tuple[int, ...]]], weights: dict[str, Path]
) -> list[Checkpoint]:
    """Trains each start with each budget and seed."""
    jobs = []
    for start, budgets in runs.items():
        own = (f"--model.weights={weights[start]}",) if start in weights else ()
        for budget, seeds in budgets.items():
            for seed in seeds:
                secret = () if budget == "none" else (f"--techniques.dp_sgd.seed={seed}",)
                common = ("--data.public=none", f"--seed_everything={seed}")
                jobs.append([*own, *common, *BUDGETS[budget], *secret])
    return run.fits(CONFIG, jobs, checkpoint)


def _of(found: Sequence[Checkpoint], start: str, privacy: str) -> list[Checkpoint]:
    return [c for c in found if c.start == start and c.privacy == privacy]


def gaps(found: Sequence[Checkpoint], start: str, scale: str) -> Iterator[Claim]:
    """The gap of one pretrained start."""
    at = {privacy: _of(found, start, privacy) for privacy in BUDGETS}
    table = {name: [_plain(c) for c in own] for name, own in at.items()}
    text = f"{start}: largest |gap| without privacy"
    yield over_seeds(text, "near 0", [abs(c.gap) for c in at["none"]], at_most(0.01), scale, table, by=max)
    text = f"{start}: gap at epsilon 2"
    yield over_seeds(text, "above 0; reference 0.049, 0.089", [c.gap for c in at["2"]], at_least(0.03), scale)
    text = f"{start}: gap at epsilon 0.5 less that at 8"
    rises = [a.gap - b.gap for a, b in zip(at["0.5"], at["8"], strict=True)]
    yield over_seeds(text, "the gap grows; reference 0.05", rises, at_least(1e-9), scale)
    text = f"{start}: AUROC of the probe at epsilon 0.5 less that before training"
    gains = [c.probe - c.probe_at_start for c in at["0.5"]]
    yield over_seeds(text, "the encoder learns; reference 0.073", gains, at_least(0.03), scale)
    text = f"{start}: what privacy (epsilon 2) takes from the network less what it takes from the probe"
    lost = _mean(at["none"], "end_to_end") - _mean(at["2"], "end_to_end")
    kept = _mean(at["none"], "probe") - _mean(at["2"], "probe")
    # this is the gap at epsilon 2 less that without privacy, on which there are claims already
    yield Claim(text, "the probe stays closer", lost - kept, REPORTED, scale, {"network": lost, "probe": kept})


def over_budgets(found: Sequence[Checkpoint], start: str, scale: str) -> Iterator[Claim]:
    """What holds over all checkpoints, clipped ones aside."""
    private = [c for c in found if c.privacy not in ("none", "clipped")]
    text = f"{start} and random: lower end of the 95 % interval of the gap, the smallest of all private checkpoints"
    yield Claim(text, "above 0", min(c.gap_low for c in private), at_least(0.0), scale)
    seen = [c for c in found if c.privacy != "clipped"]
    measured = associations(seen)
    details = {a.name: vars(a) for a in measured}
    text = f"{start} and random: rank correlation of the network's AUROC and the gap, over {len(seen)} checkpoints"
    yield Claim(text, "negative", measured[0].spearman, at_most(-0.5), scale, details)
    curves = list(curves_of(seen, start).values())
    text = f"{start}: effective dimension over budgets (none, 8, 2, 0.5), the smaller of its largest rise and fall"
    turns = [min(max(steps), -min(steps)) for steps in map(_steps, curves)]
    each = {"effective dimension of each seed": curves}
    yield over_seeds(f"{text}; median of single runs", "not monotone", turns, at_least(1e-9), scale, each, by=median)
    steps = _steps([fmean(values) for values in zip(*curves, strict=True)])
    paper = "not monotone; negative: it only falls or only rises"
    yield Claim(f"{text}; of its means over seeds", paper, min(max(steps), -min(steps)), REPORTED, scale)
    text = f"{start} and random: different sets of resamples"
    yield Claim(text, "one matrix for all models", len({c.resamples for c in found}), at_most(1), scale)


def curves_of(found: Sequence[Checkpoint], start: str) -> dict[int, list[float]]:
    """Returns the effective dimension over budgets, from none to the smallest epsilon, of each seed that has all."""
    by_budget = [{c.seed: c.effective_dimension for c in own} for name in BUDGETS if (own := _of(found, start, name))]
    seeds = sorted(set.intersection(*map(set, by_budget)))
    return {seed: [own[seed] for own in by_budget] for seed in seeds}


def _steps(curve: Sequence[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(curve)]


def _mean(checkpoints: Sequence[Checkpoint], name: str) -> float:
    return fmean(getattr(c, name) for c in checkpoints)


def _plain(checkpoint: Checkpoint) -> dict[str, float]:
    return {name: getattr(checkpoint, name) for name in ("seed", *NUMBERS, "probe_at_start")}
