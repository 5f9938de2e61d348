"""Linear probes of all concepts, and their accuracy on combinations of values that they were not trained on.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (probes by cross-entropy with Adam and a cosine schedule; theirs have no weight
decay and keep the best state of a validation set, here a penalty is chosen on held-out combinations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.linear_factors.factors import as_array, checked, index_values
from framework.settings import above, at_least, between, not_empty

PENALTIES = (0.0, 1e-4, 1e-3, 1e-2)
"""Weights of |w|²/2 to choose from, for embeddings scaled to a mean square of 1 in each dimension."""


def split_combinations(labels: Any, fraction: float, seed: int = 0) -> np.ndarray:
    """Returns which samples (N,) are of a random ``fraction`` of the combinations, which are for training.

    All samples of a combination are on one side. Every value of every concept is on the side of training: where the
    draw left one out, one combination with it is exchanged.

    Args:
        labels: (N, k).
        fraction: Share of the distinct combinations, rounded; at least one is on each side.
        seed: Seed of the draw.

    Raises:
        UserError: the fraction is not between 0 and 1, no combination can be left out, or the values cannot all be in
            so few.
    """
    between(0, 1, "()", fraction=fraction)
    labels = np.asarray(labels)
    labels = labels[:, None] if labels.ndim == 1 else labels
    combinations, member = np.unique(labels, axis=0, return_inverse=True)
    if len(combinations) < 2:
        raise UserError("fraction: there is one combination of values only, which cannot be split")
    index, ids = index_values(combinations)
    order = np.random.default_rng(seed).permutation(len(combinations))
    count = min(max(round(fraction * len(combinations)), 1), len(combinations) - 1)
    chosen = np.zeros(len(combinations), dtype=bool)
    chosen[order[:count]] = True
    for concept, values in enumerate(ids):
        seen = np.bincount(index[chosen, concept], minlength=len(values))
        for value in np.flatnonzero(seen == 0):
            chosen[order[np.argmax(index[order, concept] == value)]] = True
    for row in order[::-1] if chosen.sum() > count else ():  # those that are not needed go back
        if chosen.sum() == count:
            break
        if chosen[row]:
            chosen[row] = False
            if any(not (index[chosen, i] == index[row, i]).any() for i in range(index.shape[1])):
                chosen[row] = True
    if chosen.sum() > count:
        raise UserError(
            f"fraction: {fraction:g} is {count} of {len(combinations)} combinations, in which not every value occurs; "
            f"{int(chosen.sum())} are enough"
        )
    return chosen[member.reshape(-1)]


@dataclass(frozen=True)
class Probes:
    """One linear probe for each concept, logits z Wᵀ + b.

    Attributes:
        weights: Of each concept (n_i, d), float32.
        biases: Of each concept (n_i,).
        ids: The value of each output.
        penalty: The penalty that they were fitted with.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    ids: tuple[np.ndarray, ...]
    penalty: float

    def accuracies(self, z: Any, labels: Any) -> np.ndarray:
        """Returns the accuracy (k,) of each concept for embeddings (N, d) and labels (N, k).

        It is NaN for a concept with one value, where nothing can be wrong.
        """
        x, labels = torch.as_tensor(z, dtype=torch.float32), as_array(labels)
        found = []
        for i, (weight, bias, ids) in enumerate(zip(self.weights, self.biases, self.ids, strict=True)):
            guesses = ids[(x @ weight.T + bias).argmax(1).numpy()]
            found.append(float(np.mean(guesses == labels[:, i])) if len(ids) > 1 else float("nan"))
        return np.array(found)


def fit_probes(
    z: Any, labels: Any, penalties: Sequence[float] = (0.0,), steps: int = 500, lr: float = 0.05
) -> list[Probes]:
    """Fits the probes of all concepts by cross-entropy, once for each penalty, all at the same time.

    Full-batch Adam from zero weights with a cosine schedule to 0: the problem is convex, and weights stay in the span
    of the data. Embeddings are centred and divided by one number for it, which the returned weights undo.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        penalties: Weights of |w|²/2; see :data:`PENALTIES` for the scale.
        steps: Number of steps.
        lr: Learning rate at the start.

    Raises:
        UserError: a setting or an array is not accepted.
    """
    not_empty(penalties=penalties)
    at_least(0, penalties=list(penalties))
    at_least(1, steps=steps)
    above(0, lr=lr)
    z, labels = checked(z, labels)
    index, ids = index_values(labels)
    sizes = [len(values) for values in ids]
    mean = z[0] + (z - z[0]).mean(0)  # exactly the embedding where all are equal
    scale = math.sqrt(np.square(z - mean).mean()) or 1.0
    x = torch.from_numpy(((z - mean) / scale).astype(np.float32))
    rows = len(x)
    # the outputs of all penalties side by side: one matrix product a step
    widths = sizes * len(penalties)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    target = torch.zeros(rows, sum(sizes))
    target.scatter_(1, torch.from_numpy(index + offsets), 1.0)
    target = target.repeat(1, len(penalties))
    decay = torch.tensor(np.repeat(penalties, sum(sizes)), dtype=torch.float32)[:, None]
    weight, bias = torch.zeros(sum(widths), x.shape[1]), torch.zeros(sum(widths))
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer = torch.optim.Adam([weight, bias], lr=lr, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        logits = torch.addmm(bias, x, weight.T)
        error = torch.cat([part.softmax(1) for part in logits.split(widths, 1)], 1).sub_(target).div_(rows)
        torch.addmm(decay * weight, error.T, x, out=weight.grad)
        torch.sum(error, 0, out=bias.grad)
        optimizer.step()
    weight = weight / scale
    bias = bias - weight @ torch.from_numpy(mean.astype(np.float32))
    fitted = zip(weight.split(widths), bias.split(widths), strict=True)
    parts = list(fitted)
    found = []
    for number, penalty in enumerate(penalties):
        own = parts[number * len(sizes) : (number + 1) * len(sizes)]
        found.append(Probes(tuple(w for w, _ in own), tuple(b for _, b in own), ids, float(penalty)))
    return found


@dataclass(frozen=True)
class UnseenAccuracy:
    """What probes that were trained on a fraction of the combinations do on the others.

    Attributes:
        accuracies: On unseen combinations, of each concept (k,).
        seen: On the combinations of training, of each concept (k,).
        penalty: The chosen penalty.
        held_out: Mean accuracy on held-out combinations by penalty, from which it was chosen; empty with one penalty.
        probes: The probes.
    """

    accuracies: np.ndarray
    seen: np.ndarray
    penalty: float
    held_out: dict[float, float]
    probes: Probes

    @property
    def accuracy(self) -> float:
        """Mean on unseen combinations, over concepts with more than one value."""
        return float(np.nanmean(self.accuracies))


def unseen_accuracy(
    z: Any,
    labels: Any,
    fraction: float = 0.1,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.2,
    steps: int = 500,
    lr: float = 0.05,
    seed: int = 0,
) -> UnseenAccuracy:
    """Trains probes on a fraction of the combinations and measures them on the others.

    The penalty is the one with the best mean accuracy on combinations that are held out of those of training (the
    largest of several), never on those that are measured; the probes are then fitted to all of training.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        fraction: Share of the combinations to train on.
        penalties: Those to choose from.
        held_out: Share of the combinations of training that the choice is made on.
        steps: Steps of each fit.
        lr: Learning rate.
        seed: Seed of both splits.

    Raises:
        UserError: a setting or an array is not accepted, or not every value occurs in so few combinations.
    """
    between(0, 1, "()", held_out=held_out)
    not_empty(penalties=penalties)
    z, labels = checked(z, labels)
    train = split_combinations(labels, fraction, seed)
    chosen, scores = max(penalties), {}
    if len(penalties) > 1:
        try:
            inner = split_combinations(labels[train], 1 - held_out, seed + 1)
        except UserError:
            count = len(np.unique(labels[train], axis=0))
            raise UserError(
                f"fraction: {fraction:g} is {count} combinations to train on; without {held_out:g} of them, to choose "
                "the penalty on, not every value occurs; a larger fraction, or one penalty"
            ) from None
        candidates = fit_probes(z[train][inner], labels[train][inner], penalties, steps, lr)
        rest = z[train][~inner], labels[train][~inner]
        scores = {probes.penalty: float(np.nanmean(probes.accuracies(*rest))) for probes in candidates}
        chosen = max(scores, key=lambda penalty: (scores[penalty], penalty))
    (probes,) = fit_probes(z[train], labels[train], (chosen,), steps, lr)
    return UnseenAccuracy(
        probes.accuracies(z[~train], labels[~train]),
        probes.accuracies(z[train], labels[train]),
        chosen,
        scores,
        probes,
    )
