"""The report in the run folder: what was spent, what the guarantee covers, and what it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from callbacks.dp_sgd.examining import Findings


@dataclass(frozen=True)
class Spending:
    """What a training has spent, and how.

    Attributes:
        epsilon: ε; infinite without noise.
        delta: δ.
        accountant: ``prv`` or ``rdp``.
        noise_multiplier: σ.
        max_grad_norm: C.
        sample_rate: q.
        samples: Number of samples of the training set.
        steps: Number of steps.
        seed_is_given: Whether the seed of noise and sampling stands in the config.
        chosen_by: Training metrics that choose checkpoints.
    """

    epsilon: float
    delta: float
    accountant: str
    noise_multiplier: float
    max_grad_norm: float | None
    sample_rate: float
    samples: int
    steps: int
    seed_is_given: bool
    chosen_by: tuple[str, ...] = ()


def report_of(spending: Spending, findings: Findings | None, datamodule: Any = None) -> str:
    """Returns the report as Markdown.

    Args:
        spending: What was spent.
        findings: What was found out about the loss; ``None`` before the first sample.
        datamodule: The run's datamodule, asked for what it computed from the training data.
    """
    s = spending
    if math.isfinite(s.epsilon):
        guarantee = f"The weights after {s.steps} steps are ({s.epsilon:.4g}, {s.delta:g})-differentially private."
    else:
        guarantee = "**This training is not private**: no noise was added to the gradients (epsilon is infinite)."
    clip = "none" if s.max_grad_norm is None else f"{s.max_grad_norm:g}"
    lines = [
        "# Privacy of this training",
        "",
        guarantee,
        "",
        f"- epsilon {s.epsilon:.4g} at delta {s.delta:g}, accountant {s.accountant}",
        f"- noise multiplier {s.noise_multiplier:.4g}, clipping norm {clip}",
        f"- Poisson sampling with rate {s.sample_rate:.4g} of {s.samples} samples, {s.steps} steps",
        f"- per-sample gradients: {_computed(findings)}",
        "",
        "## Covered",
        "",
        "Adding or removing one sample (one row of the training set). Whatever is computed from the weights alone is "
        "covered too: averages of them, rounding, evaluation on other data.",
        "",
        "## Not covered",
        "",
        *(f"- {line}" for line in _not_covered(spending, findings, datamodule)),
    ]
    return "\n".join(lines) + "\n"


def _computed(findings: Findings | None) -> str:
    if findings is None:
        return "none yet"
    return "by vmap" if findings.method == "vmap" else f"by a loop ({findings.why})"


def _not_covered(spending: Spending, findings: Findings | None, datamodule: Any) -> list[str]:
    lines = [
        "Checkpoints: their state of the technique has the seed of noise and sampling, with which the noise can be "
        "subtracted. Release weights only (`python -m framework export`), neither `last.ckpt` nor `best.ckpt`.",
        "What is logged during training (`train/…`, `metrics.jsonl`, figures of training data): it has no noise.",
        "The size of the training set, and settings that were chosen by looking at the data, such as learning rate and "
        "clipping norm: each training for such a choice spends its own epsilon.",
        "Samples of the validation set: they have a say where checkpoints are chosen, a training is stopped early or a "
        "learning rate is lowered by their metrics.",
        "What the weights had spent on this data before this training, unless it continues a private one.",
        "Several samples of one person: epsilon is for one row. Overlapping windows of one text are several rows.",
        "Two trainings that continue from one checkpoint, or were given one seed, have the same noise: release one.",
        "Attacks on the rounding of floating-point noise.",
    ]
    if spending.seed_is_given:
        lines.insert(0, "**The seed is in the config**: who reads it can subtract the noise.")
    if spending.chosen_by:
        lines.insert(
            0,
            f"`best.ckpt`: it is chosen by {', '.join(spending.chosen_by)}, which is computed from the training data "
            "without noise. Use the last weights, or a validation metric.",
        )
    statistics = [name for name in ("normalize", "standardize", "class_weights") if getattr(datamodule, name, None)]
    if statistics:
        lines.insert(
            0,
            f"Statistics of the training data that {type(datamodule).__name__} computed without noise "
            f"({', '.join(statistics)}). Use constants, or statistics of public data.",
        )
    if findings is not None and findings.independent is None:
        lines.append(
            "Whether the loss of one sample depends on others could not be seen: no batch has had two samples."
        )
    if findings is not None and findings.weighted:
        lines.append(
            "Weights that training_step gives to samples or classes: each sample counts alike. Class weights that were "
            "computed from the training data are a statistic of it."
        )
    return lines
