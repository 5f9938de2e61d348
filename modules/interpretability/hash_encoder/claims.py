"""What the paper says of codes over width, time and sample size, on 5,000 digits of MNIST, in a form that can fail."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from framework.claims import Claim, Reproduction, at_least, at_most, over_seeds
from modules.interpretability.hash_encoder.plots import phase_figure, time_figure, widths_figure
from modules.interpretability.hash_encoder.regions import region_count_bound

CONFIG = "interpretability/hash_encoder"
WIDTHS = (3, 7, 10, 15, 20, 30, 40, 60, 100)
SEEDS = tuple(range(6))  # of the order of the digits too: which ten come first matters more than the start
EPOCHS = (0, 1, 3, 6, 10, 20, 40, 60)
FEW = 10
SCALE = "4,000 digits to train on, 1,000 to test, 60 epochs"


@dataclass
class _Run:
    """What was measured of one run: the rows of ``neural_code.json`` by epoch, and the network's accuracy."""

    rows: dict[int, dict[str, float]]
    accuracy: float

    @property
    def last(self) -> dict[str, float]:
        return self.rows[max(self.rows)]

    def ratio(self, epoch: int, part: str = "train") -> float:
        return self.rows[epoch][f"{part}/redundancy_ratio"]


def options(name: str, width: int, seed: int, *others: str) -> list[str]:
    """Returns the options of one run of the shipped config; its seed is that of the digits' order too."""
    return [
        f"--run.name={name}",
        "--run.monitor=null",
        f"--model.width={width}",
        f"--seed_everything={seed}",
        f"--data.seed={seed}",
        f"--techniques.neural_code.epochs={list(EPOCHS)}",
        "--techniques.neural_code.save=false",
        *others,
    ]


def measured(run: Reproduction, runs: Mapping[str, list[str]]) -> dict[str, _Run]:
    """Returns what was measured in each of some runs, by their names."""
    found = {}
    for name, metrics in zip(runs, run.fits(CONFIG, list(runs.values())), strict=True):
        (file,) = (run.folder / "runs").glob(f"*/{name}/neural_code.json")
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
        found[name] = _Run({row["epoch"]: row for row in rows}, metrics["val/accuracy"])
    return found


def claims(run: Reproduction) -> Iterator[Claim]:
    """Widths, time, and sample size."""
    bare = "--techniques.neural_code.classifiers=[]"
    runs = {f"width-{w}": options(f"width-{w}", w, 0) for w in WIDTHS}
    for seed in SEEDS:
        runs[f"few-{seed}"] = options(f"few-{seed}", 20, seed, bare, f"--data.samples={FEW}")
        if seed:  # the run of width 20 is that of seed 0
            runs[f"many-{seed}"] = options(f"many-{seed}", 20, seed, bare)
    found = measured(run, runs)
    widths = {width: found[f"width-{width}"] for width in WIDTHS}
    many = [widths[20] if seed == 0 else found[f"many-{seed}"] for seed in SEEDS]
    yield from over_width(run, widths)
    yield from over_time(run, widths, many)
    yield from over_samples(many, [found[f"few-{seed}"] for seed in SEEDS])


def over_width(run: Reproduction, widths: dict[int, _Run]) -> Iterator[Claim]:
    """The redundancy ratio falls, and codes become informative."""
    train, test = ({w: r.ratio(60, part) for w, r in widths.items()} for part in ("train", "val"))
    scores = {name: {w: r.last[f"val/{name}"] for w, r in widths.items()} for name in ("kmeans", "knn", "logistic")}
    net = {width: found.accuracy for width, found in widths.items()}
    start, first = ({w: r.ratio(epoch) for w, r in widths.items()} for epoch in (0, 1))
    columns = {"at the start": start, "after epoch 1": first, "train, n = 4,000": train, "test, n = 1,000": test}
    redundancy: dict[str, Sequence[float]] = {
        "width": list(widths),
        **{name: list(values.values()) for name, values in columns.items()},
    }
    names = {"kmeans": "K-means, purity", "knn": "9 nearest neighbours", "logistic": "logistic regression"}
    accuracy: dict[str, Sequence[float]] = {"width": list(widths), "network": list(net.values())}
    accuracy |= {names[name]: list(values.values()) for name, values in scores.items()}
    run.figure("widths", widths_figure(redundancy, accuracy))

    bound = 1 - region_count_bound(3, 784) / 4000
    text = "train RR at width 3 less its least possible value, 1 − 8/n"
    yield Claim(text, "≥ 0 (counting)", train[3] - bound, at_least(0), SCALE, {"bound": bound})
    values = list(train.values())
    rise = max(b - a for a, b in pairwise(values))
    details = {"train": train, "test": test, "at the start": start, "after epoch 1": first, "network": net}
    text = "largest rise of the train RR from one width to the next"
    yield Claim(text, "falls from ~1 to ~0", rise, at_most(0.02), SCALE, details)
    yield Claim("train RR at width 7", "~1.0 (48k)", train[7], at_least(0.9), SCALE)
    yield Claim("train RR at width 60", "< .01 from ~65 (48k)", train[60], at_most(0.05), SCALE)
    for name, paper in (("knn", ".28 to .95 (48k)"), ("logistic", "to .92 (48k)")):
        own = scores[name]
        text = f"test accuracy of codes, {names[name]}"
        yield Claim(f"{text}: width 60 less width 3", paper, own[60] - own[3], at_least(0.3), SCALE, {"accuracy": own})
        yield Claim(f"{text}: width 60", paper, own[60], at_least(0.8), SCALE)
    wide = [width for width in widths if width >= 40]
    lead = min(min(scores["knn"][w], scores["logistic"][w]) - scores["kmeans"][w] for w in wide)
    text = "test accuracy of K-NN and of logistic regression less K-means, the least of widths ≥ 40"
    yield Claim(text, "K-NN ~ LR > K-means", lead, at_least(0), SCALE, {"kmeans": scores["kmeans"]})
    apart = max(abs(scores["knn"][w] - scores["logistic"][w]) for w in wide)
    yield Claim("K-NN and logistic regression apart, widths ≥ 40", "~0 (.95, .92)", apart, at_most(0.05), SCALE)


def over_time(run: Reproduction, widths: dict[int, _Run], seeds: Sequence[_Run]) -> Iterator[Claim]:
    """The redundancy ratio rises in the first epoch and falls again."""
    curves = {f"width {w}": [(epoch, widths[w].ratio(epoch)) for epoch in EPOCHS] for w in (10, 15, 20, 30, 40)}
    run.figure("time", time_figure(curves))
    ratios = np.array([[found.ratio(epoch) for epoch in EPOCHS] for found in widths.values()]).T
    maps = {"train RR, n = 4,000": ratios}
    run.figure("phases", phase_figure(maps, EPOCHS, list(widths), ("width", "epochs")))
    found = {epoch: [one.ratio(epoch) for one in seeds] for epoch in EPOCHS}
    details = {f"epoch {epoch}": values for epoch, values in found.items()}
    paper = "jumps, then decays (width 40, 48k: .05, .57, .10)"
    for epoch, moment in ((0, "at the start"), (60, "at the end")):
        rises = [first - other for first, other in zip(found[1], found[epoch], strict=True)]
        text = f"train RR after the first epoch less {moment}, width 20, mean"
        yield over_seeds(text, paper, rises, at_least(0.15), SCALE, details)


def over_samples(many: Sequence[_Run], few: Sequence[_Run]) -> Iterator[Claim]:
    """Codes of the same test images are less unique if the network was trained on few."""
    ratios = {name: [one.ratio(60, "val") for one in runs] for name, runs in (("few", few), ("many", many))}
    details: dict[str, Any] = {f"n = {FEW}": ratios["few"], "n = 4,000": ratios["many"]}
    details |= {"network": {f"n = {FEW}": [r.accuracy for r in few], "n = 4,000": [r.accuracy for r in many]}}
    few_mean, many_mean = (float(np.mean(ratios[name])) for name in ("few", "many"))
    each = tuple(one / other if other else math.nan for one, other in zip(ratios["few"], ratios["many"], strict=True))
    text = f"mean test RR, trained on the first n = {FEW} over n = 4,000, width 20, equally many updates"
    paper = "falls with n (width 40: .77 to .05)"
    yield Claim(text, paper, few_mean / many_mean, at_least(3), SCALE, details, len(each), each)
