"""What the paper proves of readouts, what losses make of free embeddings, what training does to a CNN's geometry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds
from framework.functional.linear_factors import PENALTIES
from modules.interpretability.compositional_linear.encoders import open_encoder
from modules.interpretability.compositional_linear.free import REACHED, least_dimension
from modules.interpretability.compositional_linear.plots import dimensions_figure, free_figure, survey_figure
from modules.interpretability.compositional_linear.survey import factor_data, survey_encoder
from modules.interpretability.compositional_linear.theory import (
    cross_support,
    expected_readouts,
    grid_labels,
    max_margin_readouts,
    orthogonal_grid,
    random_support,
)

CONFIG = "interpretability/compositional_linear"
FREE = "interpretability/compositional_linear_free"
FREE_SEEDS = list(range(16))
CELLS = ((2, 2, 8), (3, 2, 8), (4, 2, 16), (2, 6, 8))  # k, n, d
WIDE = ((2, 6, 8, "ce", "euclidean"),)  # whose ratio is above 0.6 for most seeds, unlike in the other cells
KINDS = (("ce", "euclidean"), ("bce", "spherical"))
SEEDS = (0, 1, 2)
STEPS = "2,000 steps instead of 50,000"
PICTURES = "7,500 rendered shapes of 32x32, a small CNN"


def claims(run: Reproduction) -> Iterator[Claim]:
    """Theory, free embeddings, least dimensions, and encoders."""
    yield from readouts()
    yield from free_geometry(run)
    yield from least_dimensions(run)
    yield from encoders(run)


def readouts() -> Iterator[Claim]:
    """Max-margin readouts of an orthogonal factorised grid are the same for every valid support, and right."""
    labels = grid_labels([2] * 4)
    errors, wrong, spread, others = [], [], [], []
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        z, differences = orthogonal_grid(4, 10, generator)
        supports = [random_support(labels, generator) for _ in range(20)]
        supports += [cross_support(labels, base) for base in range(16)]
        found = [max_margin_readouts(z[rows], labels[rows]) for rows in supports]
        w = np.stack([one for one, _ in found])
        expected = expected_readouts(differences)
        errors.append(float(np.max(np.linalg.norm(w - expected, axis=2) / np.linalg.norm(expected, axis=1))))
        right = [((z @ one.T + b > 0) == labels).mean() for one, b in found]
        wrong.append(1 - float(min(right)))
        spread.append(float(np.abs(w - w[:1]).max()))
        skewed = differences + 0.6 * differences[[1, 2, 3, 0]]
        z = (labels - 0.5) @ skewed
        crosses = [cross_support(labels, base) for base in range(16)]
        w = np.stack([max_margin_readouts(z[rows], labels[rows])[0] for rows in crosses])
        others.append(float(np.max(np.linalg.norm(w - w[:1], axis=2) / np.linalg.norm(w[:1], axis=2))))
    scale = "k = 4, d = 10, 36 supports of each of 3 grids"
    text = "max-margin readouts of an orthogonal grid from 2 D/|D|², largest relative distance"
    yield over_seeds(text, "0 (Proposition 4)", errors, at_most(1e-3), scale, by=max)
    text = "share of answers on all 16 combinations that readouts of 5 or 9 of them get wrong, largest"
    yield over_seeds(text, "0 (Proposition 2)", wrong, at_most(0), scale, by=max)
    text = "largest difference between the readouts of two supports"
    yield over_seeds(text, "0 (Proposition 2)", spread, at_most(1e-3), scale, by=max)
    text = "relative difference between readouts of cross supports, factors not orthogonal, least of the grids"
    yield over_seeds(text, "> 0 (Proposition 1)", others, at_least(0.05), scale, by=min)


def _trajectory(experiment: Any, seconds: float) -> dict[str, np.ndarray]:
    return experiment.model.trajectory()


def _free(name: str, concepts: int, values: int, dims: list[int], seeds: list[int], loss: str, space: str) -> list[str]:
    return [
        f"--run.name={name}",
        f"--data.concepts={concepts}",
        f"--data.values={values}",
        f"--model.dims={dims}",
        f"--model.seeds={seeds}",
        f"--model.loss={loss}",
        f"--model.space={space}",
        "--data.passes=100",
        "--model.inner_steps=20",
    ]


def free_geometry(run: Reproduction) -> Iterator[Claim]:
    """Both losses end in additive, orthogonal embeddings without an encoder."""
    keys = [(*cell, *kind) for cell in CELLS for kind in KINDS]
    options = [_free("free-" + "-".join(map(str, key)), *key[:2], [key[2]], FREE_SEEDS, *key[3:]) for key in keys]
    found = dict(zip(keys, run.fits(FREE, options, of=_trajectory), strict=True))
    last = {key: {name: found[key][name][-1] for name in ("worst", "r2", "cross", "within")} for key in keys}
    shown = {
        f"k={k} n={n} d={d} {loss} {space}": {
            name: [round(float(v), 3) for v in values] for name, values in own.items()
        }
        for (k, n, d, loss, space), own in last.items()
    }
    for name, values in shown.items():
        print(f"    {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()), flush=True)
    key = (4, 2, 16, "bce", "spherical")
    run.figure("free", free_figure(found[key], "bce, spherical, k = 4, n = 2"))
    scale = f"four cells of k, n, d, two losses and spaces; {STEPS}"
    text = "least accuracy of a concept"
    yield over_seeds(text, "1", _by_seed(last, "worst", np.min), at_least(1), scale, shown, by=min)
    text = "R² of the cell with the least, mean over seeds"
    yield over_seeds(text, "≥ .7 in most cells", _by_seed(last, "r2", np.min), at_least(0.7), scale)
    ratio = {k: {"ratio": own["cross"] / own["within"]} for k, own in last.items()}
    softmax = {key: ratio.pop(key) for key in WIDE}
    text = "|cos| between concepts over that within, of the cell with the largest but softmax with n = 6, largest"
    largest = _by_seed(ratio, "ratio", np.max)
    yield over_seeds(text, "small", largest, at_most(0.6), scale, by=max)
    text = "|cos| between concepts over that within, softmax with n = 6, mean over seeds"
    own = _by_seed(softmax, "ratio", np.max)
    yield over_seeds(text, "small", own, at_most(0.6), scale, {"largest of a seed": max(own)})


def _by_seed(last: Mapping[Any, Mapping[str, np.ndarray]], name: str, reduce: Any) -> list[float]:
    return [float(value) for value in reduce(np.stack([own[name] for own in last.values()]), axis=0)]


def least_dimensions(run: Reproduction) -> Iterator[Claim]:
    """The least dimension in which every combination can be told: k for softmax, 2k for one-vs-rest."""
    keys = [(k, loss) for k in (1, 2, 3) for loss in ("ce", "bce")]
    options = []
    for k, loss in keys:
        dims, seeds = list(range(max(k - 1, 1), 2 * k + 2)), [0] if k == 3 else [0, 1]
        options.append(_free(f"least-{k}-{loss}", k, 6, dims, seeds, loss, "euclidean"))
    found = dict(zip(keys, run.fits(FREE, options, of=_trajectory), strict=True))
    curves, least = {}, {}
    for (k, loss), own in found.items():
        known: list[int] = np.unique(own["dim"]).tolist()
        best = [float(own["worst"][-1][own["dim"] == d].max()) for d in known]
        curves[f"{loss}, k = {k}"] = list(zip(known, best, strict=True))
        least[k, loss] = least_dimension(own)
    run.figure("dimensions", dimensions_figure(curves, REACHED))
    for loss, factor, paper in (("ce", 1, "k"), ("bce", 2, "about 2k")):
        for k in (1, 2, 3):
            text = f"least d with every concept right, n = 6, k = {k}, {loss}"
            found_d = least[k, loss]
            value = float("nan") if found_d is None else float(found_d)
            details = {"accuracy by d": dict(curves[f"{loss}, k = {k}"])}
            yield Claim(text, paper, value, close_to(factor * k), f"k ≤ 3, {STEPS}", details, 1 if k == 3 else 2)


def _looks(experiment: Any, seconds: float) -> tuple[list[dict[str, Any]], dict[str, float]]:
    file = Path(experiment.folder) / "concept_geometry.json"
    metrics = {name: float(value) for name, value in experiment.trainer.callback_metrics.items()}
    return json.loads(file.read_text(encoding="utf-8"))["rows"], metrics


def encoders(run: Reproduction) -> Iterator[Claim]:
    """Training on half of the combinations makes embeddings more additive, and probes on a tenth of them transfer."""
    options = [[f"--run.name=cnn-{seed}", f"--seed_everything={seed}", "--run.monitor=null"] for seed in SEEDS]
    found = run.fits(CONFIG, options, of=_looks)
    for seed, (rows, _) in zip(SEEDS, found, strict=True):
        for row in rows:
            scores = row["post"]
            names = ("r2", "r2_whitened", "cross", "within", "k95", "accuracy", "penalty")
            shown = ", ".join(f"{name} {scores[name]:.3g}" for name in names)
            print(f"    CNN (post), seed {seed}, epoch {row['epoch']}: {shown}", flush=True)
    first, last = ([rows[i]["post"] for rows, _ in found] for i in (0, -1))
    gaps = {}
    for name, text, paper in (
        ("r2_whitened", "whitened R²", ".13 random, .40 to .43 trained (dSprites)"),
        ("accuracy", "accuracy on unseen combinations, probes on 10 %", ".42 random, ≥ .8 trained (dSprites)"),
    ):
        gaps[name] = [b[name] - a[name] for a, b in zip(first, last, strict=True)]
        details = {"random": [a[name] for a in first], "trained": [b[name] for b in last]}
        text = f"{text}: trained CNN less random CNN, least of the seeds"
        yield over_seeds(text, paper, gaps[name], at_least(1e-9), PICTURES, details, by=min)
    rows = [{"encoder": f"CNN, epoch {r['epoch']}", "features": "post", **r["post"]} for r in found[0][0]]
    rows += pixels()
    run.figure("encoders", survey_figure(rows))
    from scipy.stats import spearmanr

    rank = float(spearmanr([r["r2_whitened"] for r in rows], [r["accuracy"] for r in rows]).statistic)
    print(
        f"    targets, not gated: gaps ≥ .1: R² {np.round(gaps['r2_whitened'], 3)}, accuracy "
        f"{np.round(gaps['accuracy'], 3)}; rank correlation of the {len(rows)} encoders > .6: {rank:.2f}",
        flush=True,
    )


def pixels() -> list[dict[str, Any]]:
    """Returns the row of the pixels."""
    data = factor_data(CONFIG)
    found = survey_encoder("pixels", open_encoder("pixels", data.image_size), data, penalties=PENALTIES)
    for row in found:
        print("    pixels: " + ", ".join(f"{n} {row[n]:.3g}" for n in ("r2", "r2_whitened", "accuracy")), flush=True)
    return found
