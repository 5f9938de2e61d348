"""What the paper says of GrokAlign, on XOR clusters and digits of reduced size, in a form that can fail."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from framework.claims import Claim, Reproduction, at_least, at_most
from framework.functional.jacobian import rank_one_share
from modules.interpretability.grok_align.plots import Curve, acceleration_figure
from modules.interpretability.grok_align.theory import across, train_linear

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
SMALL_XOR = "p = 4,000, width 128, 400 samples; noise of deviation 1 in the test set"
SMALL_DIGITS = "512 digits of 8x8 pixels, 64-100-100-100-10; passes until test accuracy 0.85"


@dataclass
class _Arm:
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


def fitted(run: Reproduction, config: str, *overrides: str) -> _Arm:
    """Trains a shipped config until generalisation."""
    from framework.runs.experiment import build
    from framework.runs.quiet import quiet_lightning

    quiet_lightning()
    print(f"  fit {config} {' '.join(overrides)}", flush=True)
    where = [f"--run.root={run.folder / 'runs'}", "--wandb.mode=disabled", "--run.monitor=null"]
    silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    experiment = build(config, overrides=[*where, *silent, *overrides])
    start = time.perf_counter()
    experiment.fit()
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {getattr(c, "technique", ""): c for c in experiment.trainer.callbacks}  # type: ignore[attr-defined]
    delay, metrics = found["grokking_delay"], experiment.trainer.callback_metrics
    norm = metrics.get("centroid_alignment/norm")
    return _Arm(
        float(metrics["grokking_delay/waited"]),
        delay.test_step is not None,
        round(seconds, 1),
        delay.curve,
        None if norm is None else float(norm),
    )


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
    plain = [fitted(run, XOR, f"--seed_everything={seed}", WITHOUT, quick) for seed in SEEDS]
    penalised = [fitted(run, XOR, f"--seed_everything={seed}", quick) for seed in SEEDS]
    tuned = [
        fitted(run, XOR, f"--seed_everything={SEEDS[0]}", WITHOUT, quick, f"--model.optimizer.weight_decay={decay}")
        for decay in (0.2, 0.3, 0.5)
    ]
    curves["weight decay 0.1"], curves["GrokAlign, λ 0.3"] = (
        [arm.curve for arm in arms] for arms in (plain, penalised)
    )
    details = {
        "weight decay 0.1": _steps(plain),
        "GrokAlign": _steps(penalised),
        "seconds": {"weight decay 0.1": _seconds(plain), "GrokAlign": _seconds(penalised)},
        "|μ| at the end": {"weight decay 0.1": [a.norm for a in plain], "GrokAlign": [a.norm for a in penalised]},
        "weight decay 0.2, 0.3, 0.5, seed 0": _steps(tuned),
    }
    ratio = mean(b.waited / a.waited for a, b in zip(plain, penalised, strict=True))
    text = "XOR: steps until noisy test accuracy 0.99, GrokAlign over weight decay 0.1"
    yield Claim(text, "110 / 250 (figure)", ratio, at_most(0.8), SMALL_XOR, details, seeds=len(SEEDS))


def tuned(run: Reproduction, curves: dict[str, list[Curve]]) -> Iterator[Claim]:
    """Passes until generalisation, both arms tuned with equal budgets on another seed and split."""
    decays = {d: fitted(run, DIGITS, *PLAIN, *TUNING, f"--model.optimizer.weight_decay={d}") for d in DECAYS}
    strengths = {s: fitted(run, DIGITS, BARE, *TUNING, f"--techniques.grok_align.weight={s}") for s in STRENGTHS}
    decay = min(decays, key=lambda value: decays[value].waited)
    strength = min(strengths, key=lambda value: strengths[value].waited)
    best = [fitted(run, DIGITS, *PLAIN, seed, f"--model.optimizer.weight_decay={decay}") for seed in SEEDED]
    ours = [fitted(run, DIGITS, BARE, seed, f"--techniques.grok_align.weight={strength}") for seed in SEEDED]
    curves[f"weight decay {decay:g}, tuned"] = [arm.curve for arm in best]
    curves[f"GrokAlign, λ {strength:g}, tuned"] = [arm.curve for arm in ours]
    details = {
        f"weight decay {decay:g}": _steps(best),
        f"GrokAlign, λ {strength:g}": _steps(ours),
        "tuning of weight decay": {str(value): _steps([arm]) for value, arm in decays.items()},
        "tuning of λ": {str(value): _steps([arm]) for value, arm in strengths.items()},
        "seconds": {"weight decay": _seconds(best), "GrokAlign": _seconds(ours)},
    }
    ratio = mean(a.waited for a in best) / mean(b.waited for b in ours)
    text = "digits, both tuned in six trials: passes of weight decay alone over those of GrokAlign beside 0.01"
    yield Claim(text, "none", ratio, at_least(1.5), SMALL_DIGITS, details, len(SEEDS))


def defaults(run: Reproduction, curves: dict[str, list[Curve]]) -> Iterator[Claim]:
    """Passes until generalisation with the authors' settings."""
    plain, penalised = [], []
    for seed in SEEDED:
        penalised.append(fitted(run, DIGITS, BARE, seed))
        plain.append(fitted(run, DIGITS, *PLAIN, MOST, seed))
    curves["weight decay 0.01"], curves["GrokAlign, λ 0.001"] = ([a.curve for a in arms] for arms in (plain, penalised))
    grokfast = fitted(
        run, DIGITS, *PLAIN, MOST, SEEDED[0], "--techniques.grokfast.class_path=callbacks.grokfast.Grokfast"
    )
    details: dict[str, Any] = {
        "weight decay 0.01": _steps(plain),
        "GrokAlign": _steps(penalised),
        "Grokfast, seed 0": _steps([grokfast]),
        "seconds": {
            "weight decay": _seconds(plain),
            "GrokAlign": _seconds(penalised),
            "Grokfast": _seconds([grokfast]),
        },
    }
    ratio = mean(a.waited for a in plain) / mean(b.waited for b in penalised)
    text = "digits: passes of weight decay 0.01, at most 3,500, over those of GrokAlign (λ 0.001) beside it"
    yield Claim(text, "up to 7", ratio, at_least(1.5), SMALL_DIGITS, details, seeds=len(SEEDS))


def _steps(arms: Sequence[_Arm]) -> list[str]:
    return [f"{arm.waited:g}" if arm.reached else f"> {arm.waited:g}" for arm in arms]


def _seconds(arms: Sequence[_Arm]) -> list[float]:
    return [arm.seconds for arm in arms]
