"""What the paper says of its penalty on generated data, at a small scale and in a form that can fail.

24 runs: supports on three and five latents, with and without the penalty, each seed with a map, latents and a start of
its own. The paper's numbers are of networks and training that it does not describe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, over_seeds
from modules.interpretability.diverse_dictionary.plots import arms_figure, supports_figure

CONFIG = "interpretability/diverse_dictionary"
WEIGHT = 0.05
STRUCTURES = {3: ("ring", "full"), 5: ("ring", "complement", "full")}  # of three latents the complement is the ring
SEEDS = {3: (0, 1, 2), 5: (0, 1)}
EPOCHS = {3: 100, 5: 50}
SCALE = {3: "d = 3, 10,000 samples, 4,000 steps", 5: "d = 5, 10,000 samples, 2,000 steps"}
REPORTED = Bound("reported", math.isfinite)
MCC, F1, ONES = (f"identifiability/{name}" for name in ("mcc", "support_f1", "support_f1_all_ones"))
FORBIDDEN = tuple(f"identifiability/r2_{name}" for name in ("int", "sym", "comp_a", "comp_b"))
REFERENCE = "identifiability/r2_ref"


@dataclass(frozen=True)
class DictionaryArm:
    """The runs of one structure and weight."""

    latents: int
    structure: str
    weight: float

    def name(self, seed: int) -> str:
        """The run's."""
        return f"{self.structure}-{self.latents}-{'penalty' if self.weight else 'plain'}-{seed}"

    def options(self, seed: int) -> list[str]:
        """Those of the command line."""
        epochs = EPOCHS[self.latents]
        return [
            f"--run.name={self.name(seed)}",
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--data.structure={self.structure}",
            f"--data.dimension={self.latents}",
            f"--techniques.dependency_sparsity.weight={self.weight}",
            f"--trainer.max_epochs={epochs}",
            f"--trainer.check_val_every_n_epoch={epochs}",
        ]


Found = dict[DictionaryArm, list[dict[str, float]]]


def claims(run: Reproduction) -> Iterator[Claim]:
    """Trains all arms, then compares them."""
    arms = [DictionaryArm(d, s, w) for d, names in STRUCTURES.items() for s, w in product(names, (0.0, WEIGHT))]
    runs = [(arm, seed) for arm in arms for seed in SEEDS[arm.latents]]
    found: Found = {arm: [] for arm in arms}
    for (arm, _), metrics in zip(runs, run.fits(CONFIG, [arm.options(seed) for arm, seed in runs]), strict=True):
        found[arm].append(metrics)
    figures(run, found)
    yield from recovery(found)
    yield from contrast(found)
    yield from sets(found)


def values(found: Found, d: int, structure: str, weight: float, name: str) -> list[float]:
    """One metric of all seeds."""
    return [metrics[name] for metrics in found[DictionaryArm(d, structure, weight)]]


def gains(found: Found, d: int, structure: str, name: str) -> list[float]:
    """What the penalty adds to a metric, of each seed."""
    pairs = zip(*(values(found, d, structure, weight, name) for weight in (WEIGHT, 0.0)), strict=True)
    return [after - before for after, before in pairs]


def details(found: Found, d: int, structure: str, name: str) -> dict[str, Any]:
    """Both arms of all seeds; of F1 that of all ones too."""
    both = {f"weight {w:g}": values(found, d, structure, w, name) for w in (0.0, WEIGHT)}
    return both | ({"all ones": values(found, d, structure, 0.0, ONES)} if name == F1 else {})


def recovery(found: Found) -> Iterator[Claim]:
    """What the penalty adds."""
    shown = {3: ".83, Base .39 (element-wise)", 5: ".82, Base .46 (element-wise)"}
    rows = (
        (5, "ring", MCC, at_least(0.1)),
        (5, "ring", F1, at_least(0.1)),
        (3, "full", MCC, at_most(0.05)),
        (5, "full", MCC, at_most(0.05)),
        (3, "ring", MCC, REPORTED),
        (3, "ring", F1, REPORTED),
        (5, "complement", MCC, REPORTED),
        (5, "complement", F1, REPORTED),
        (5, "full", F1, REPORTED),
    )
    for d, structure, name, bound in rows:
        score = "MCC" if name == MCC else "F1 of the support"
        ones = f" (all ones {values(found, d, structure, 0.0, ONES)[0]:.2f})" if name == F1 else ""
        text = f"{structure}, d = {d}: {score} with the penalty less without{ones}"
        paper = shown[d] if name == MCC and structure == "ring" else "no gain" if structure == "full" else "a gain"
        yield over_seeds(
            text, paper, gains(found, d, structure, name), bound, SCALE[d], details(found, d, structure, name)
        )


def contrast(found: Found) -> Iterator[Claim]:
    """A diverse support against one where all observations depend on all latents."""
    for d, bound, paper in ((3, at_least(0.15), ".83 − .39"), (5, at_least(0.1), ".82 − .46")):
        ring, full = (values(found, d, structure, WEIGHT, MCC) for structure in ("ring", "full"))
        each = [one - other for one, other in zip(ring, full, strict=True)]
        text = f"MCC of the ring less that of the full support, both with the penalty, d = {d}"
        yield over_seeds(text, paper, each, bound, SCALE[d], {"ring": ring, "full": full})


def sets(found: Found) -> Iterator[Claim]:
    """Forbidden predictions beside the one of all latents from all estimates."""
    for d, paper in ((3, "Int .25 Sym .05 Comp .08 .15 Ref .75"), (5, "Int .05 Sym .10 Comp .10 .25 Ref .60")):
        for weight in (WEIGHT, 0.0):
            runs = found[DictionaryArm(d, "ring", weight)]
            ratios = [fmean(m[name] for name in FORBIDDEN) / m[REFERENCE] for m in runs]
            all_names = {name.rpartition("/")[2]: [m[name] for m in runs] for name in (*FORBIDDEN, REFERENCE)}
            text = f"ring, d = {d}, weight {weight:g}: mean R² of Int, Sym, Comp over Ref (target 0.6)"
            yield over_seeds(text, paper, ratios, REPORTED, SCALE[d], all_names)


def figures(run: Reproduction, found: Found) -> None:
    """Scores of all arms, and the supports of one seed."""
    names = {"MCC": MCC, "F1 of the support": F1}
    scores: dict[str, dict[str, dict[float, list[float]]]] = {name: {} for name in names}
    ones = {}
    for d, structures in STRUCTURES.items():
        for structure in structures:
            label = f"{structure}, d = {d}"
            ones[label] = values(found, d, structure, 0.0, ONES)[0]
            for name, key in names.items():
                scores[name][label] = {w: values(found, d, structure, w, key) for w in (0.0, WEIGHT)}
    run.figure("arms", arms_figure(scores, ones))
    pictures = {}
    for title, weight in (("no penalty", 0.0), (f"weight {WEIGHT:g}", WEIGHT)):
        (file,) = (run.folder / "runs").glob(f"*/{DictionaryArm(5, 'ring', weight).name(0)}/identifiability.json")
        pictures[title] = np.array(json.loads(file.read_text(encoding="utf-8"))["strength"])
    truth = np.eye(5) + np.roll(np.eye(5), 1, axis=1)
    run.figure("supports", supports_figure({"ring: true support": truth, **pictures}))
