"""What the paper says of the two heads, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, close_to, over_seeds, within
from framework.functional.linear_heads import (
    ClassStatistics,
    LearningCurve,
    curve_figure,
    gaussian_head,
    learning_curve,
)
from framework.functional.linear_heads.curve import NAIVE_BAYES, logistic_name
from framework.functional.linear_heads.mixture import MixtureLaw
from modules.finetuning.discriminative_generative.plots import samples_figure
from modules.finetuning.discriminative_generative.simulation import (
    even_grid,
    geometric_grid,
    log_slope,
    logistic_fit,
    naive_bayes_fit,
    samples_needed,
    scaled,
)
from modules.finetuning.discriminative_generative.theory import assumptions, log_ratio, pinsker_bound

CONFIG = "finetuning/discriminative_generative"
DIMENSIONS = (100, 200, 400, 1000)
CLASSES = (2, 3, 5, 7)
SEEDS = range(5)
ENCODERS = (0, 1, 2)  # seeds of the network whose features they are
C = (0.1, 1.0, 10.0)
FASHION = Path("/usr/share/datasets/fashion-mnist")


def claims(run: Reproduction) -> Iterator[Claim]:
    """Theory, the simulation, real features, and the shipped config."""
    yield from theory()
    yield from simulation(run)
    yield from real_features(run)
    yield from fashion(run)
    yield from through_fit(run)


def theory() -> Iterator[Claim]:
    """The bound, and closed forms against draws."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for classes in (2, 3, 10):
        shape = (100_000, classes)
        p, q = ((2 * torch.randn(shape, dtype=torch.float64, generator=generator)).softmax(-1) for _ in range(2))
        cost, bound = pinsker_bound(p, q)
        worst = max(worst, float((cost / bound).max()))
    yield Claim("excess error over √(2 KL), 300,000 random pairs, largest", "≤ 1", worst, at_most(1.0))
    e = 1e-4
    p, q = torch.tensor([[0.5 - e, 0.5 + e], [0.5, 0.5]], dtype=torch.float64)
    cost, bound = pinsker_bound(p, q)
    yield Claim("the same where it is tight: p = ½ ± 1e-4, q = ½", "1", float(cost / bound), close_to(1, absolute=1e-3))

    law = MixtureLaw(2, 100)
    found = assumptions(law.means, law.variances)
    x = law.sample(torch.zeros(200_000, dtype=torch.long), generator)
    ratio = log_ratio(x, law.means, law.variances, 0, 1)
    for name, value, drawn in (
        ("β = 1 + 1/n", found.beta[0, 1, 0], ratio.mean().abs() / 100),
        ("α = 2 + 2/n", found.alpha[0, 1], ratio.var() / 100),
    ):
        yield Claim(f"{name}, n = 100, over 200,000 draws", "1", float(value / drawn), close_to(1, absolute=0.03))


def simulation(run: Reproduction) -> Iterator[Claim]:
    """m*, the samples for an error within 0.01 of the smallest: O(log n) for one head, O(n) for the other."""
    needed: dict[str, dict[int, list[int]]] = {}
    slopes: dict[str, float] = {}
    for classes in CLASSES:
        name = f"naive Bayes, K = {classes}"
        laws = {n: MixtureLaw(classes, n) for n in DIMENSIONS}
        needed[name] = {
            n: samples_needed(law, lambda k=classes: naive_bayes_fit(k), even_grid(law, 400), range(20))  # type: ignore[misc]
            for n, law in laws.items()
        }
        means = [float(np.mean(draws)) for draws in needed[name].values()]
        slopes[name] = log_slope(DIMENSIONS, means)
        details = {"m*": dict(zip(map(str, DIMENSIONS), means, strict=True))}
        text = f"{name}: slope of log m* over log n, n = 100 to 1,000"
        yield Claim(text, "logarithmic or flat", slopes[name], within(-0.3, 0.3), details=details, seeds=20)
    name = "logistic, K = 2"
    needed[name] = {
        n: samples_needed(law, lambda: logistic_fit(2), geometric_grid(law, 4 * n, first=n // 2), SEEDS)
        for n, law in ((n, MixtureLaw(2, n)) for n in DIMENSIONS)
    }
    means = [float(np.mean(draws)) for draws in needed[name].values()]
    slopes[name] = log_slope(DIMENSIONS, means)
    details = {"m*": dict(zip(map(str, DIMENSIONS), means, strict=True))}
    coarse = "m on a grid of ratio 1.1"
    text = f"{name}: slope of log m* over log n, n = 100 to 1,000"
    yield Claim(text, "linear: 1", slopes[name], within(0.9, 1.3), coarse, details, seeds=len(SEEDS))
    ratio = means[-1] / float(np.mean(needed["naive Bayes, K = 2"][1000]))
    yield Claim(
        "m* of logistic regression over naive Bayes, K = 2, n = 1,000",
        "≫ 1",
        ratio,
        at_least(100),
        coarse,
        seeds=len(SEEDS),
    )
    name = "logistic, K = 3"
    needed[name] = {
        n: samples_needed(law, lambda: logistic_fit(3), geometric_grid(law, 6 * n, first=n), SEEDS)
        for n, law in ((n, MixtureLaw(3, n)) for n in (100, 200))
    }
    three = {n: float(np.mean(draws)) for n, draws in needed[name].items()}
    for n, reference in ((100, 288), (200, 430)):
        text = f"{name}: m*, n = {n}"
        yield Claim(
            text, f"none; reference {reference}", three[n], close_to(reference, relative=0.15), coarse, seeds=len(SEEDS)
        )
    text = f"{name}: m* at n = 200 over n = 100"
    yield Claim(text, "linear: 2; reference 1.5", three[200] / three[100], within(1.4, 2.6), coarse, seeds=len(SEEDS))
    law = MixtureLaw(2, 1000)
    found = samples_needed(law, lambda: scaled(logistic_fit(2)), even_grid(law, 4000), SEEDS)
    text = "not in the paper: logistic regression with coordinates scaled to [0, 1], K = 2, n = 1,000: m*"
    yield Claim(text, "none", float(np.mean(found)), at_most(30), details={"m*": found}, seeds=len(SEEDS))
    run.figure("samples", samples_figure(needed, slopes))


def _curve(sizes: list[int], repeats: int, *overrides: str, c: tuple[float, ...] = C) -> LearningCurve:
    """Of the features that the shipped config makes, on the test part."""
    from framework.runs.experiment import build
    from framework.runs.quiet import quiet_lightning

    quiet_lightning()
    quiet = ["--wandb.mode=disabled", "--trainer.logger=false", "--techniques.probe_heads=null"]
    data: Any = build(CONFIG, overrides=[*overrides, *quiet]).datamodule
    data.setup("fit")
    return learning_curve(data.pool, data.outside, sizes, repeats, c)


def _table(curve: LearningCurve) -> dict[str, Any]:
    return {"m": curve.sizes.tolist(), **{name: curve.mean(name).round(4).tolist() for name in curve.errors}}


def _lead(curve: LearningCurve, size: int) -> float:
    """Error of logistic regression at its best C less that of naive Bayes."""
    row = curve.sizes.tolist().index(size)
    return float(curve.discriminative()[row] - curve.mean(NAIVE_BAYES)[row])


def _crossovers(data: str, paper: str, found: list[LearningCurve], bound: Bound, scale: str) -> Iterator[Claim]:
    """How many networks' features have a crossover, and where it is for those."""
    crossovers = [curve.crossover() for curve in found]
    there = [m for m in crossovers if not math.isnan(m)]
    text = f"{data}: networks whose features have a crossover, of {len(found)}"
    yield Claim(text, "all: two regimes", len(there), at_least(len(found)), scale, seeds=len(found))
    if there:
        yield over_seeds(f"{data}: crossover where there is one, samples", paper, there, bound, scale)


def real_features(run: Reproduction) -> Iterator[Claim]:
    """Two regimes on the features of a supervised network; none where the features do not fit the task."""
    scale = f"128 features of each of {len(ENCODERS)} CNNs trained on 1,500 digits, 20 draws"
    found = [_curve([20, 50, 100, 200, 500, 1000, 2000], 20, f"--data.seed={seed}") for seed in ENCODERS]
    details = {f"network {seed}": _table(curve) for seed, curve in zip(ENCODERS, found, strict=True)}
    text = "digits: naive Bayes ahead of logistic regression at its best C, m = 50, error"
    yield over_seeds(text, "ahead", [_lead(curve, 50) for curve in found], at_least(0.0), scale, details)
    text = "digits: logistic regression ahead, m = 1,000, error"
    yield over_seeds(text, "ahead", [-_lead(curve, 1000) for curve in found], at_least(0.01), scale)
    yield from _crossovers("digits", "there is one", found, within(40, 200), scale)
    ratios = []
    for curve in found:
        errors = {name: curve.mean(name) for name in (NAIVE_BAYES, logistic_name(10.0))}
        left = {name: float(error[3] - error[-1]) for name, error in errors.items()}
        ratios.append(left[logistic_name(10.0)] / left[NAIVE_BAYES])
    text = "digits: what m = 200 leaves of the way to m = 2,000, logistic regression (C = 10) over naive Bayes"
    yield over_seeds(text, "> 1: the generative head is done earlier", ratios, at_least(1.2), scale)

    sizes = [20, 100, 200, 1000]
    controls = {
        "CNN of scikit-learn's digits": ["--data.encoder.source=digits", "--data.images.size=28"],
        "raw pixels": ["--data.encoder.name=pixels", "--data.features=784"],
    }
    curves = {"supervised CNN": found[0]}
    for name, overrides in controls.items():
        curve = curves[name] = _curve(sizes, 4, *overrides, c=(1.0, 10.0))
        text = f"{name}: largest lead of naive Bayes from m = 100 on"
        lead = max(_lead(curve, size) for size in sizes[1:])
        yield Claim(text, "none; reference: never", lead, at_most(0.0), "digits, 4 draws", _table(curve), seeds=4)
        text = f"{name}: naive Bayes behind at m = 1,000"
        yield Claim(text, "none; reference: far", -_lead(curve, 1000), at_least(0.05), "digits, 4 draws", seeds=4)
    run.figure("digits", curve_figure(curves))


def fashion(run: Reproduction) -> Iterator[Claim]:
    """The same on Fashion-MNIST, where its folder is installed."""
    if not FASHION.is_dir():
        print(f"  left out: {FASHION} is not installed")
        return
    own = ["--data.source=idx", f"--data.path={FASHION}", "--data.encoder.samples=10000", "--data.encoder.epochs=5"]
    own += [
        "--data.images.mean=[0.0]",
        "--data.images.std=[1.0]",
        "--data.images.max_train=8000",
        "--data.images.max_test=3000",
    ]
    sizes = [20, 50, 100, 200, 1000]
    found = [_curve(sizes, 20, *own, f"--data.seed={seed}", c=(1.0, 10.0)) for seed in ENCODERS]
    details = {f"network {seed}": _table(curve) for seed, curve in zip(ENCODERS, found, strict=True)}
    scale = f"128 features of each of {len(ENCODERS)} CNNs trained on 10,000 images of Fashion-MNIST, 20 draws"
    text = "Fashion-MNIST: naive Bayes ahead of logistic regression at its best C, m = {}"
    for size, paper, bound in (
        (50, "ahead; reference 0.015", at_least(0.01)),
        (100, "none; reference 0.011", at_least(0.01)),
    ):
        yield over_seeds(text.format(size), paper, [_lead(curve, size) for curve in found], bound, scale, details)
    text = "Fashion-MNIST: logistic regression ahead, m = 1,000"
    behind = [-_lead(curve, 1000) for curve in found]
    yield over_seeds(text, "ahead; reference 0.030", behind, at_least(0.02), scale)
    yield from _crossovers("Fashion-MNIST", "none; reference between 100 and 200", found, within(70, 300), scale)
    run.figure("fashion", curve_figure({"Fashion-MNIST, supervised CNN": found[0]}))


def through_fit(run: Reproduction) -> Iterator[Claim]:
    """The shipped command gives what the functions and scikit-learn give."""
    from framework.runs.experiment import build

    few = ["--techniques.probe_heads=null", "--data.samples=200"]
    data: Any = build(CONFIG, overrides=[*few, "--wandb.mode=disabled", "--trainer.logger=false"]).datamodule
    data.setup("fit")
    (x, y), (held, truth) = data.train_set.tensors, data.val_set.tensors
    fitted = run.fit(CONFIG, *few, "--data.batch_size=32")["val/accuracy"]
    direct = 1 - gaussian_head(ClassStatistics.of(x, y, 10)).error(held.double(), truth)
    text = "naive Bayes through fit in batches of 32, and at once: difference of val/accuracy"
    yield Claim(text, "equal", abs(fitted - direct), at_most(1e-6))

    head = ["--model.class_path=modules.finetuning.discriminative_generative.LogisticHead"]
    head += ["--model.features=128", "--model.num_classes=10", "--model.c=1.0"]
    fitted = run.fit(CONFIG, *few, *head)["val/accuracy"]
    text = "logistic regression through fit, and scikit-learn's: difference of val/accuracy"
    yield Claim(text, "equal", abs(fitted - _sklearn_accuracy(x, y, held, truth)), at_most(1e-6))


def _sklearn_accuracy(x: Tensor, y: Tensor, held: Tensor, truth: Tensor) -> float:
    from sklearn.linear_model import LogisticRegression

    peer = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(x.double().numpy(), y.numpy())
    return float(peer.score(held.double().numpy(), truth.numpy()))
