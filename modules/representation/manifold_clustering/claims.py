"""What the paper says of its clusters and their subspaces, on digits and in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, close_to, over_seeds
from modules.representation.manifold_clustering.baselines import k_means, neighbour_spectral, ssc_omp
from modules.representation.manifold_clustering.plots import arms_figure
from modules.representation.manifold_clustering.rates import coding_rate, membership_rate
from modules.representation.manifold_clustering.scores import cluster_scores, matched_accuracy

if TYPE_CHECKING:
    from framework.runs.experiment import Experiment

CONFIG = "representation/manifold_clustering"
SEEDS = (0, 1)
TCR_EPOCHS, RANDOM_EPOCHS = 60, 30
SMALL = "1,617 digits of 8x8, 60 epochs of TCR and 60 of MLC, d = 32"
ONE = f"{SMALL}; one seed"
REPORTED = Bound("reported", math.isfinite)
ETAS = (0.1, 0.3)
IMBALANCED = ("--data.odd_share=0.1", "--data.batch_size=128")
HALVED = ("--data.odd_share=0.5", "--data.batch_size=192")


@dataclass
class TrainedClusters:
    """A trained run.

    Attributes:
        curve: What was logged at each validation, with its ``epoch``.
        logged: The last of each logged metric.
        unseen: Accuracy of the clusters that examples get which training has not seen.
        sparse: Accuracy of SSC-OMP on the features, by the number of points in a combination.
        pixels: Scores of the methods on pixels, by name.
    """

    curve: list[dict[str, float]]
    logged: dict[str, float]
    unseen: float
    sparse: dict[int, float]
    pixels: dict[str, dict[str, float]]

    def at(self, epoch: int) -> dict[str, float]:
        """Returns what was logged after an epoch."""
        return next(row for row in self.curve if row["epoch"] == epoch)


def measured(experiment: Experiment, seconds: float) -> TrainedClusters:
    """Measures a run and, on the same examples, the methods to compare with."""
    model: Any = experiment.model
    data: Any = experiment.datamodule
    model.eval()
    with torch.no_grad():
        x, y = data.val_set.tensors
        inputs = data.val_set.transform(x)
        z = model(inputs).numpy()
        unseen = data.test_set
        cluster, _ = model.assign(model.cluster_features(unseen.transform(unseen.tensors[0]))[1])
    labels, pixels = y.numpy(), inputs.flatten(1).numpy()
    methods: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
        "k-means": k_means,
        "spectral": neighbour_spectral,
        "SSC-OMP": ssc_omp,
    }
    k = model.num_clusters
    return TrainedClusters(
        model.curve,
        {key: float(value) for key, value in experiment.trainer.callback_metrics.items()},
        matched_accuracy(unseen.tensors[1].numpy(), cluster.numpy()),
        {few: cluster_scores(labels, ssc_omp(z, k, few))["accuracy"] for few in (2, 3, 5)},
        {name: cluster_scores(labels, method(pixels, k)) for name, method in methods.items()},
    )


def claims(run: Reproduction) -> Iterator[Claim]:
    """The theory in numbers, then clusters of digits, balanced and not."""
    yield from theory()
    jobs: dict[str, list[list[str]]] = {
        "main": [[f"--seed_everything={seed}"] for seed in (0, 1, 2)],
        "tcr": [
            [f"--seed_everything={s}", "--techniques.copied_head=null", f"--trainer.max_epochs={TCR_EPOCHS}"]
            for s in SEEDS
        ],
        "random": [
            [
                f"--seed_everything={seed}",
                "--techniques.copied_head.start=random",
                f"--trainer.max_epochs={TCR_EPOCHS + RANDOM_EPOCHS}",
            ]
            for seed in SEEDS
        ],
        "10:1": [[f"--seed_everything={seed}", *IMBALANCED] for seed in SEEDS],
        "2:1": [["--seed_everything=0", *HALVED]],
        **{f"eta {eta:g}": [[f"--model.eta={eta}"]] for eta in ETAS},
    }
    results = iter(run.fits(CONFIG, [job for some in jobs.values() for job in some], measured))
    found = {name: [next(results) for _ in some] for name, some in jobs.items()}
    yield from gains(found)
    yield from subspaces(found)
    yield from comparisons(found)
    yield from imbalance(found)
    run.figure("arms", arms_figure(_scores(found), found["main"][0].curve, TCR_EPOCHS))


def theory() -> Iterator[Claim]:
    """Objective values that the paper's equations give exactly."""
    d, k, r, eps = 30, 5, 3, 0.2
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    z = basis.T[: k * r].repeat(20, 1)  # white in each of k orthogonal subspaces of r dimensions
    labels = torch.arange(k * r).div(r, rounding_mode="floor").repeat(20)
    same = (labels[:, None] == labels).double()
    value = float(coding_rate(z, eps) - membership_rate(z, same / same.sum(0), eps))
    ideal = k * r * math.log(1 + d / (k * r * eps)) - r * math.log(1 + d / (r * eps))
    text = "R - R_c of ideal subspaces"
    yield Claim(text, f"{ideal:.4f} (closed form)", value, close_to(ideal, absolute=1e-9), "k = 5, r = 3, d = 30")


def gains(found: dict[str, list[TrainedClusters]]) -> Iterator[Claim]:
    """What the second stage adds to the first."""
    main = found["main"]
    before, after = [a.at(TCR_EPOCHS) for a in main], [a.curve[-1] for a in main]
    for name, shown in (("accuracy", ".863 (CIFAR-10)"), ("nmi", ".783 (CIFAR-10)")):
        bound = at_least(0.93) if name == "accuracy" else REPORTED
        text = f"{'accuracy' if name == 'accuracy' else 'NMI'} of the clusters"
        details = {"after TCR": [row[name] for row in before]}
        yield over_seeds(text, shown, [row[name] for row in after], bound, SMALL, details)
    text = "gain of accuracy by MLC over TCR with the copied head"
    gain = [b["accuracy"] - a["accuracy"] for a, b in zip(before, after, strict=True)]
    yield over_seeds(text, "none; reference 0.145 to 0.154", gain, at_least(0.1), SMALL)
    text = "accuracy of the clusters that unseen examples get"
    yield over_seeds(text, "none", [a.unseen for a in main], at_least(0.9), "180 digits left out of training")
    text = "number of clusters with the largest gap of eigenvalues, at the end (10 classes)"
    yield over_seeds(text, "none", [row["best_k"] for row in after], REPORTED, SMALL)
    white = 32 * math.log(1 + 1 / 0.2)
    tcr = found["tcr"]
    text = "TCR: mean |cosine| of two views"
    yield over_seeds(text, "none; reference 0.862", [a.logged["train/cosine"] for a in tcr], at_least(0.8), SMALL)
    text = "TCR: R over that of white features, d ln(1 + 1/ε²)"
    yield over_seeds(text, "none; reference 0.93", [a.curve[-1]["R"] / white for a in tcr], at_least(0.85), SMALL)


def subspaces(found: dict[str, list[TrainedClusters]]) -> Iterator[Claim]:
    """The geometry of features: classes of low rank, different from each other, and no collapse."""
    main = found["main"]
    before, after = [a.at(TCR_EPOCHS) for a in main], [a.curve[-1] for a in main]

    def change(name: str) -> list[float]:
        return [1 - b[name] / a[name] for a, b in zip(before, after, strict=True)]

    def both(name: str) -> dict[str, Any]:
        return {"before": [row[name] for row in before], "after": [row[name] for row in after]}

    text = "relative fall of the classes' mean numerical rank"
    yield over_seeds(text, "0.35 (one class: 37 to 24)", change("class_rank"), at_least(0.3), SMALL, both("class_rank"))
    text = "numerical rank of all features over d"
    yield over_seeds(text, "0.92 (118 of 128)", [r["rank"] / 32 for r in after], at_least(0.85), SMALL, both("rank"))
    text = "relative fall of the mean |cosine| between classes"
    paper = "falls; reference 0.46"
    yield over_seeds(text, paper, change("cosine_between"), at_least(0.35), SMALL, both("cosine_between"))
    text = "mean |cosine| within a class (1 is collapse)"
    paper = "no collapse; reference 0.482"
    yield over_seeds(text, paper, [row["cosine_within"] for row in after], at_most(0.6), SMALL, both("cosine_within"))
    text = "R at the end over R after TCR"
    ratios = [b["R"] / a["R"] for a, b in zip(before, after, strict=True)]
    yield over_seeds(text, "nearly constant", ratios, close_to(1.0, absolute=0.05), SMALL, both("R"))
    text = "R_c of the clusters at the end over that after TCR"
    ratios = [b["R_c_clusters"] / a["R_c_clusters"] for a, b in zip(before, after, strict=True)]
    yield over_seeds(text, "falls; reference 0.73", ratios, at_most(0.85), SMALL, both("R_c_clusters"))


def comparisons(found: dict[str, list[TrainedClusters]]) -> Iterator[Claim]:
    """The copied head against a random one, η, and other methods on the same digits."""
    main, random = found["main"], found["random"]
    epoch = TCR_EPOCHS + RANDOM_EPOCHS
    less = [main[s].at(epoch)["accuracy"] - random[s].at(epoch)["accuracy"] for s in range(len(SEEDS))]
    details = {"random": [a.at(epoch)["accuracy"] for a in random]}
    text = "accuracy with the copied head less that with a random one, after 30 epochs of MLC"
    yield over_seeds(text, "above", less, at_least(0.0), SMALL.replace("60 of MLC", "30 of MLC"), details)
    final = main[0].curve[-1]["accuracy"]
    for eta in ETAS:
        other = found[f"eta {eta:g}"][0].curve[-1]
        text = f"accuracy at η 0.2 less that at η {eta:g}"
        shown = {"perplexity over n/k": other["perplexity"] * 10 / 1617, "accuracy": other["accuracy"]}
        yield Claim(text, "above; reference 0.3", final - other["accuracy"], at_least(0.1), ONE, shown)
    for name, scores in main[0].pixels.items():
        text = f"accuracy less that of {name} on pixels"
        values = [a.curve[-1]["accuracy"] - a.pixels[name]["accuracy"] for a in main]
        yield over_seeds(text, "above", values, at_least(0.0), SMALL, {name: scores})
    text = "accuracy of SSC-OMP (of 3 points) on features of MLC less on those of TCR"
    tcr = found["tcr"]
    values = [main[s].sparse[3] - tcr[s].sparse[3] for s in range(len(SEEDS))]
    each = {"TCR": [a.sparse for a in tcr], "MLC": [a.sparse for a in main]}
    yield over_seeds(text, "0.106 (.678 to .784)", values, REPORTED, SMALL, each)


def imbalance(found: dict[str, list[TrainedClusters]]) -> Iterator[Claim]:
    """Classes of unequal size: half of each odd one left out, as in the paper, and nine tenths."""
    some = found["10:1"]
    last = [a.curve[-1]["accuracy"] for a in some]
    best = [max(scores["accuracy"] for scores in a.pixels.values()) for a in some]
    scale = "882 digits, odd classes have 16 of 160; 60 epochs of TCR and 60 of MLC"
    details = {"pixels": [a.pixels for a in some], "final": [a.curve[-1] for a in some]}
    text = "classes of 10:1: accuracy less that of the best method on pixels"
    values = [a - b for a, b in zip(last, best, strict=True)]
    yield over_seeds(text, "above (Imb-CIFAR-10: .800, SCAN .629)", values, at_least(0.1), scale, details)
    yield over_seeds("classes of 10:1: accuracy", "none", last, at_least(0.8), scale)
    half = found["2:1"][0]
    text = "half of the odd classes: accuracy"
    scale = "1,209 digits; one seed"
    yield Claim(text, ".800 (Imb-CIFAR-10)", half.curve[-1]["accuracy"], at_least(0.9), scale, {"pixels": half.pixels})


def _scores(found: dict[str, list[TrainedClusters]]) -> dict[str, Sequence[float]]:
    """Accuracies of all arms, for the figure."""
    main = found["main"]
    shown: dict[str, Sequence[float]] = {
        f"{name}, pixels": [a.pixels[name]["accuracy"] for a in main] for name in main[0].pixels
    }
    shown["TCR, Γ of features"] = [a.at(TCR_EPOCHS)["accuracy"] for a in main]
    shown["MLC"] = [a.curve[-1]["accuracy"] for a in main]
    shown["random cluster head"] = [a.curve[-1]["accuracy"] for a in found["random"]]
    for name in [f"eta {eta:g}" for eta in ETAS]:
        shown[f"MLC, {name.replace('eta', 'η')}"] = [a.curve[-1]["accuracy"] for a in found[name]]
    for name in ("2:1", "10:1"):
        arms = found[name]
        shown[f"classes of {name}: best on pixels"] = [max(s["accuracy"] for s in a.pixels.values()) for a in arms]
        shown[f"classes of {name}: MLC"] = [a.curve[-1]["accuracy"] for a in arms]
    return {name: np.asarray(values).tolist() for name, values in shown.items()}
