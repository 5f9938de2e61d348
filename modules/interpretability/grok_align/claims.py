"""What the paper says of GrokAlign, on XOR clusters and digits of reduced size, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, over_seeds
from framework.functional.jacobian import rank_one_share
from modules.interpretability.grok_align.plots import Curve, acceleration_figure
from modules.interpretability.grok_align.theory import across, train_linear

if TYPE_CHECKING:
    from framework.runs.experiment import Experiment

XOR, DIGITS = "interpretability/grok_align_xor", "interpretability/grok_align"
SEEDS = (0, 1, 2)
SEEDED = [f"--seed_everything={seed}" for seed in SEEDS]
TUNING = ("--seed_everything=100", "--data.split_seed=100", "--trainer.max_epochs=60")  # no seed or split of a claim
WITHOUT, BARE = "--techniques.grok_align=null", "--techniques.centroid_alignment=null"
PLAIN = (WITHOUT, BARE)
MOST = "--trainer.max_epochs=350"  # of weight decay alone: 3,500 passes, which are enough to decide the claim
# As in configs/sweeps/grok_align_weight_decay and grok_align_strength: six trials each.
DECAYS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
STRENGTHS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0)
REPORTED = Bound("reported", math.isfinite)
SMALL_XOR = "p = 4,000, width 128, 400 samples; noise of deviation 1 in the test set"
SMALL_DIGITS = "512 digits of 8x8 pixels, 64-100-100-100-10; passes until test accuracy 0.85"


@dataclass
class Arm:
    """A run through ``fit``.

    Attributes:
        waited: Steps or passes until the threshold; those of the whole run if it was not reached.
        reached: Whether it was.
        seconds: Of the training.
        curve: (step, training accuracy, test accuracy).
        norm: Last mean centroid norm, if it was measured.
    """

    waited: float
    reached: bool
    seconds: float
    curve: Curve
    norm: float | None = None


def arm(experiment: Experiment, seconds: float) -> Arm:
    """Returns what a run measured."""
    found: dict[str, Any] = {getattr(c, "technique", ""): c for c in experiment.trainer.callbacks}  # type: ignore[attr-defined]
    delay, metrics = found["grokking_delay"], experiment.trainer.callback_metrics
    norm = metrics.get("centroid_alignment/norm")
    return Arm(
        float(metrics["grokking_delay/waited"]),
        delay.test_step is not None,
        round(seconds, 1),
        delay.curve,
        None if norm is None else float(norm),
    )


def fitted(run: Reproduction, config: str, *groups: Sequence[tuple[str, ...]]) -> list[list[Arm]]:
    """Trains a shipped config until generalisation, once for each tuple of overrides, all side by side."""
    found = iter(run.fits(config, [["--run.monitor=null", *overrides] for group in groups for overrides in group], arm))
    return [[next(found) for _ in group] for group in groups]


def claims(run: Reproduction) -> Iterator[Claim]:
    """The theorem for one sample, acceleration on XOR clusters and on digits, and the tuned baseline."""
    yield from one_sample()
    panels: dict[str, dict[str, list[Curve]]] = {"XOR clusters, noisy test set": {}, "digits": {}}
    yield from xor(run, panels["XOR clusters, noisy test set"])
    yield from tuned(run, panels["digits"])
    yield from defaults(run, panels["digits"])
    units = ("full-batch steps", "passes over the data (4 steps)")
    run.figure("acceleration", acceleration_figure(panels, (0.99, 0.85), units))


def one_sample() -> Iterator[Claim]:
    """f = W x on one sample: without the penalty what the sample does not see stays, with it W becomes c xᵀ."""
    generator = torch.Generator().manual_seed(0)
    weight, x, y = (torch.randn(*shape, generator=generator).double() for shape in ((3, 5), (5,), (3,)))
    start = across(weight, x)
    plain, aligned = (train_linear(weight, x, y, strength, 0.05, 4000) for strength in (0.0, 0.3))
    gap = float((across(plain, x) - start).abs().max())
    text = "f = W x, one sample, gradient descent: change of W (I - xxᵀ/|x|²) without the penalty"
    yield Claim(text, "0 (theory)", gap, at_most(1e-10))
    left = float(across(aligned, x).norm() / start.norm())
    yield Claim("the same with λ = 0.3: its norm over that at the start", "→ 0 (theory)", left, at_most(1e-3))
    share = float(rank_one_share(aligned[None]))
    yield Claim("σ₁²/Σσ² of W then: rank one, rows parallel to x", "1 (theory)", share, at_least(1 - 1e-6))


def xor(run: Reproduction, curves: dict[str, list[Curve]]) -> Iterator[Claim]:
    """Steps until the noisy test set is classified, with the penalty and without."""
    quick = "--techniques.centroid_alignment.pc1=false"
    plain, penalised, tuned = fitted(
        run,
        XOR,
        [(quick, seed, WITHOUT) for seed in SEEDED],
        [(quick, seed) for seed in SEEDED],
        [(quick, SEEDED[0], WITHOUT, _decay(decay)) for decay in (0.2, 0.3, 0.5)],
    )
    curves["weight decay 0.1"], curves["GrokAlign, λ 0.3"] = _curves(plain), _curves(penalised)
    details = {
        "weight decay 0.1": _steps(plain),
        "GrokAlign": _steps(penalised),
        "seconds": {"weight decay 0.1": _seconds(plain), "GrokAlign": _seconds(penalised)},
        "|μ| at the end": {"weight decay 0.1": [a.norm for a in plain], "GrokAlign": [a.norm for a in penalised]},
        "weight decay 0.2, 0.3, 0.5, seed 0": _steps(tuned),
    }
    text = "XOR: steps until noisy test accuracy 0.99, GrokAlign over weight decay 0.1"
    yield over_seeds(text, "110 / 250 (figure)", _ratios(penalised, plain), at_most(0.8), SMALL_XOR, details)


def tuned(run: Reproduction, curves: dict[str, list[Curve]]) -> Iterator[Claim]:
    """Passes until generalisation, both arms tuned with equal budgets on another seed and split."""
    decays, strengths = fitted(
        run,
        DIGITS,
        [(*PLAIN, *TUNING, _decay(value)) for value in DECAYS],
        [(BARE, *TUNING, _strength(value)) for value in STRENGTHS],
    )
    decay, strength = _best(DECAYS, decays), _best(STRENGTHS, strengths)
    # not an equal budget: the penalty has the decay's trials too
    (beside,) = fitted(run, DIGITS, [(BARE, *TUNING, _decay(decay), _strength(value)) for value in STRENGTHS])
    added = _best(STRENGTHS, beside)
    best, ours, both = fitted(
        run,
        DIGITS,
        [(*PLAIN, seed, _decay(decay)) for seed in SEEDED],
        [(BARE, seed, _strength(strength)) for seed in SEEDED],
        [(BARE, seed, _decay(decay), _strength(added)) for seed in SEEDED],
    )
    curves[f"weight decay {decay:g}, tuned"] = _curves(best)
    curves[f"GrokAlign, λ {strength:g}, tuned"] = _curves(ours)
    details: dict[str, Any] = {
        f"weight decay {decay:g}": _steps(best),
        f"GrokAlign, λ {strength:g}": _steps(ours),
        "tuning of weight decay": {str(value): _steps([a]) for value, a in zip(DECAYS, decays, strict=True)},
        "tuning of λ": {str(value): _steps([a]) for value, a in zip(STRENGTHS, strengths, strict=True)},
        "seconds": {"weight decay": _seconds(best), "GrokAlign": _seconds(ours)},
    }
    text = "digits, both tuned in six trials: passes of weight decay alone over those of GrokAlign beside 0.01"
    yield over_seeds(text, "none", _ratios(best, ours), at_least(1.5), SMALL_DIGITS, details)
    details = {
        f"GrokAlign, λ {added:g}, beside weight decay {decay:g}": _steps(both),
        "tuning of λ": {str(value): _steps([a]) for value, a in zip(STRENGTHS, beside, strict=True)},
        "seconds": _seconds(both),
    }
    text = "the same with λ tuned beside the tuned weight decay, in six trials more"
    yield over_seeds(text, "none", _ratios(best, both), REPORTED, SMALL_DIGITS, details)


def defaults(run: Reproduction, curves: dict[str, list[Curve]]) -> Iterator[Claim]:
    """Passes until generalisation with the authors' settings."""
    grokfast = "--techniques.grokfast.class_path=callbacks.grokfast.Grokfast"
    plain, penalised, faster = fitted(
        run,
        DIGITS,
        [(*PLAIN, MOST, seed) for seed in SEEDED],
        [(BARE, seed) for seed in SEEDED],
        [(*PLAIN, MOST, SEEDED[0], grokfast)],
    )
    curves["weight decay 0.01"], curves["GrokAlign, λ 0.001"] = _curves(plain), _curves(penalised)
    arms = {"weight decay 0.01": plain, "GrokAlign": penalised, "Grokfast, seed 0": faster}
    details: dict[str, Any] = {name: _steps(some) for name, some in arms.items()}
    details["seconds"] = {name: _seconds(some) for name, some in arms.items()}
    text = "digits: passes of weight decay 0.01, at most 3,500, over those of GrokAlign (λ 0.001) beside it"
    yield over_seeds(text, "up to 7", _ratios(plain, penalised), at_least(1.5), SMALL_DIGITS, details)


def _decay(value: float) -> str:
    return f"--model.optimizer.weight_decay={value}"


def _strength(value: float) -> str:
    return f"--techniques.grok_align.weight={value}"


def _best(values: Sequence[float], arms: Sequence[Arm]) -> float:
    """Returns the value of the first arm of those that waited least."""
    return min(zip(values, arms, strict=True), key=lambda pair: pair[1].waited)[0]


def _ratios(over: Sequence[Arm], under: Sequence[Arm]) -> list[float]:
    return [a.waited / b.waited for a, b in zip(over, under, strict=True)]


def _curves(arms: Sequence[Arm]) -> list[Curve]:
    return [a.curve for a in arms]


def _steps(arms: Sequence[Arm]) -> list[str]:
    return [f"{a.waited:g}" if a.reached else f"> {a.waited:g}" for a in arms]


def _seconds(arms: Sequence[Arm]) -> list[float]:
    return [a.seconds for a in arms]
