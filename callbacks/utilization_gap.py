"""Utilisation gap: how much better a fresh linear probe on a network's embeddings ranks than the network's own head.

Paper: Tayebi Arasteh, Mohammadi, Nebelung, Truhn, 2026, "Differential privacy representation geometry for medical image
analysis", arXiv 2603.01098.

    G = U_probe - U_end-to-end

Both are macro AUROC, the mean over labels of the AUROC (half ties) on the same examples: of the network's outputs, and
of one logistic regression per label (L2, C = 1, scikit-learn's liblinear, which penalises the intercept too) fitted to
the embeddings of the training data. G > 0 means that the encoder separates what the trained head does not use, as after
differentially private training; without privacy it is near 0.

Logged at the start, after ``epochs`` and at the end: ``utilization_gap/end_to_end``, ``/probe`` and ``/gap``.
``utilization_gap.json`` has them for each label, with 95 % intervals and p over bootstrap resamples, which are the same
for both and for every model of the same data (their hash is in it), and accuracy, sensitivity, specificity and F1 at
the best threshold, chosen again in each resample. A resample in which a label has one class is left out and counted; a
label that has one class in the data is left out of the mean and named. One that has one class in the training data has
no probe (AUROC 0.5, in the mean) and is named too.

Targets are labels (B, K) of 0 and 1, with K outputs, or classes (B,), each against the others, of which the outputs'
softmax is ranked. Cost: a pass over training data and examples per look, and the probe: seconds for 5,000 examples;
from two million numbers on it is fitted by Newton's method (``solver``), to the same minimum.

These numbers are not part of a differentially private release: the probe is fitted to the training data without noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from scipy.special import log_softmax

from framework.errors import UserError
from framework.figures import new_figure
from framework.functional.binary_probes import Solver, fit_binary_probes
from framework.functional.ranking import OPERATING, rank_scores, two_classes
from framework.functional.ranking import macro as macro_of
from framework.functional.resampling import Interval, paired_p
from framework.observing.diagnostics import EmbeddingObserver, Look, Part
from framework.settings import above, at_least, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = ("end_to_end", "probe")


def compare_scores(
    scores: dict[str, np.ndarray], labels: np.ndarray, counts: np.ndarray | None = None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compares two scorings of the same examples, ``end_to_end`` and ``probe``.

    Args:
        scores: Scores (N, K) of each, larger for the positive.
        labels: (N, K) of 0 and 1.
        counts: How often each example occurs in each resample (R, N); without them there are no intervals.

    Returns:
        The macro AUROC of each, and their difference ``gap``; and details: ``labels`` (of each label the AUROC of
        both), ``intervals``, ``p``, and ``operating``, by scoring the mean over labels at the best threshold.
    """
    points = {name: rank_scores(values, labels)["auroc"][0] for name, values in scores.items()}
    numbers = {name: macro_of(values, labels) for name, values in points.items()}
    numbers["gap"] = numbers["probe"] - numbers["end_to_end"]
    details: dict[str, Any] = {"labels": {name: values.tolist() for name, values in points.items()}}
    if counts is None:
        return numbers, details
    defined = two_classes(labels)
    resampled = {name: rank_scores(values, labels, counts, operating=True) for name, values in scores.items()}
    macro = {name: _mean(found["auroc"][:, defined]) for name, found in resampled.items()}
    macro["gap"] = macro["probe"] - macro["end_to_end"]
    details["intervals"] = {name: Interval.of(numbers[name], macro[name]).as_dict() for name in macro}
    details["label_intervals"] = {
        name: [Interval.of(points[name][k], found["auroc"][:, k]).as_dict() for k in range(labels.shape[1])]
        for name, found in resampled.items()
    }
    details["p"] = paired_p(macro["probe"], macro["end_to_end"])
    details["operating"] = {}
    for name, found in resampled.items():
        once = {key: values[:, defined] for key, values in rank_scores(scores[name], labels, operating=True).items()}
        details["operating"][name] = {
            key: Interval.of(_mean(once[key])[0], _mean(found[key][:, defined])).as_dict() for key in OPERATING
        }
    return numbers, details


def _mean(values: np.ndarray) -> np.ndarray:
    """Means over labels of values (R, K), NaN unless all are defined."""
    return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)


def gap_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draws both macro AUROCs over epochs, and those of each label at the end."""
    figure = new_figure(columns=2, size=(8.4, 3.3))
    curves, labels = figure.axes
    for name in SCORES:
        text = name.replace("_", " ")
        curves.plot([r["epoch"] for r in rows], [r[name] for r in rows], "o-", markersize=4, label=text)
        values = rows[-1]["labels"][name] if "labels" in rows[-1] else []
        labels.plot(range(len(values)), values, "o", markersize=5, label=text)
    curves.set(xlabel="epochs", ylabel="macro AUROC")
    curves.legend(frameon=False, fontsize=8)
    labels.set(xlabel="label", ylabel="AUROC")
    labels.set_xticks(range(len(rows[-1].get("labels", {}).get("probe", []))))
    return figure


class UtilizationGap(EmbeddingObserver):
    """Logs, draws and reports the gap between a fresh probe on the embeddings and the network's own outputs.

    Args:
        layer: Name of the layer whose input is the embedding; by default the model's head.
        part: ``val`` or ``test``: the data on which both are scored.
        epochs: Epochs after which to look, 0 being the start. The end is always one.
        normalize: Whether embeddings are divided by their norms.
        strength: C, the inverse of the probe's regularisation.
        solver: ``liblinear`` (scikit-learn), ``newton``, or ``auto``, which takes ``newton`` for large data.
        max_iter: Largest number of iterations.
        examples: Largest number of examples of the part, drawn at random from more; null for all.
        train_examples: The same of the training data.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples and of the choice of examples.
        batch_size: Examples in a pass of the network.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no ``forward``, there is no such layer
            or data, or the targets do not fit the outputs (before training).
    """

    technique = "utilization_gap"

    def __init__(
        self,
        layer: str | None = None,
        part: Part = "val",
        epochs: tuple[int, ...] = (0,),
        normalize: bool = True,
        strength: float = 1.0,
        solver: Solver = "auto",
        max_iter: int = 2000,
        examples: int | None = None,
        train_examples: int | None = None,
        resamples: int = 1000,
        seed: int = 0,
        batch_size: int = 256,
    ) -> None:
        super().__init__(layer, part, epochs, normalize, examples, resamples, seed, batch_size)
        one_of(("val", "test"), part=part)
        above(0, strength=strength)
        one_of(get_args(Solver), solver=solver)
        at_least(1, max_iter=max_iter)
        at_least(2, train_examples=train_examples)
        self.strength, self.solver, self.max_iter, self.train_examples = strength, solver, max_iter, train_examples

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Scores one batch, so that what cannot work is known before training.

        Raises:
            UserError: there is no such data or layer, or the targets do not fit the outputs.
        """
        super().on_train_start(trainer, pl_module)
        outputs, targets = self.embed(trainer, pl_module, self.part, 1, outputs=True)
        _scores(outputs, targets, self.name)
        self.embed(trainer, pl_module, "train", 1)

    def look(self, trainer: pl.Trainer, module: pl.LightningModule, part: Part, last: bool) -> Look:
        """Fits the probe to the training data and scores the examples of a part."""
        outputs, targets = self.embed(trainer, module, part, self.examples, outputs=True)
        scores, labels = _scores(outputs, targets, self.name)
        z = self.scaled(self.embed(trainer, module, part, self.examples)[0])
        x, found = self.embed(trainer, module, "train", self.train_examples)
        x = self.scaled(x)
        y = _labels(found, labels.shape[1], self.name)
        if not (np.isfinite(x).all() and np.isfinite(z).all()):  # training has diverged
            probe = np.full(labels.shape, np.nan)
        else:
            weight, bias = fit_binary_probes(x, y, self.strength, self.solver, self.max_iter)
            probe = z @ weight.T + bias
        counts, about = self.counts(len(z)) if last else (None, {})
        numbers, details = compare_scores({"end_to_end": scores, "probe": probe}, labels, counts)
        missing, unfitted = (np.flatnonzero(~two_classes(values)).tolist() for values in (labels, y))
        if last and missing:
            rank_zero_warn(f"{self.name}: labels {missing} have one class in the {part} data; the mean is without them")
        if last and set(unfitted) - set(missing):
            rank_zero_warn(
                f"{self.name}: labels {unfitted} have one class in the training data, so that their probe ranks "
                "nothing (AUROC 0.5); the mean is with them"
            )
        more = {"bootstrap": about, "left_out": missing, "not_fitted": unfitted} if last else {}
        return Look(numbers, {**details, **more})

    def figure(self) -> Figure | None:
        """Draws curves and labels."""
        return gap_figure(self.rows) if self.rows else None


def _labels(targets: np.ndarray, outputs: int, name: str) -> np.ndarray:
    """Targets as labels (N, K) of 0 and 1."""
    if targets.ndim == 1 and outputs > 1:
        if not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0 or targets.max() >= outputs:
            raise UserError(f"{name}: targets are not classes from 0 to {outputs - 1}")
        return (targets[:, None] == np.arange(outputs)).astype(np.int64)
    labels = targets[:, None] if targets.ndim == 1 else targets
    expected = "labels of 0 and 1 for each output, or classes (B,), are expected"
    if labels.shape[1:] != (outputs,):
        raise UserError(f"{name}: targets {targets.shape[1:]} for {outputs} outputs; {expected}")
    other = labels[~np.isin(labels, (0, 1))]
    if other.size:
        raise UserError(f"{name}: {other.size} targets are neither 0 nor 1, the first is {other[0]:g}; {expected}")
    return labels.astype(np.int64)


def _scores(outputs: np.ndarray, targets: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores to rank, and labels, (N, K) each."""
    if outputs.ndim != 2:
        raise UserError(
            f"{name}: outputs of shape {outputs.shape[1:]} for an example; one number for each label needed"
        )
    labels = _labels(targets, outputs.shape[1], name)
    return (log_softmax(outputs, axis=1) if targets.ndim == 1 and outputs.shape[1] > 1 else outputs), labels
