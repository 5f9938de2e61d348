"""Both sides of the paper's comparison for one set of embeddings: its geometry, and probes on unseen combinations.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (probes on 90 % of the combinations for the geometry, on 10 % for the accuracy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.functional.linear_factors.factors import checked
from framework.functional.linear_factors.geometry import Geometry, measure_geometry
from framework.functional.linear_factors.probes import (
    PENALTIES,
    UnseenAccuracy,
    fit_probes,
    split_combinations,
    unseen_accuracy,
)


@dataclass(frozen=True)
class EmbeddingStudy:
    """What was found.

    Attributes:
        geometry: In the whole space, and in the span of probes without a penalty on ``geometry_fraction`` of the
            combinations.
        unseen: Of probes on ``fraction`` of the combinations; ``None`` if there is one concept only.
    """

    geometry: Geometry
    unseen: UnseenAccuracy | None

    def scores(self) -> dict[str, float]:
        """Returns the numbers to log: those of the geometry, ``accuracy`` on unseen combinations, ``seen_accuracy`` on
        those of training, and ``penalty``, the chosen one."""
        found = self.geometry.scores()
        if self.unseen is not None:
            found["accuracy"] = self.unseen.accuracy
            found["seen_accuracy"] = float(np.nanmean(self.unseen.seen))
            found["penalty"] = self.unseen.penalty
        return found

    def record(self, concepts: Sequence[str]) -> dict[str, Any]:
        """Returns all numbers as plain data, those of each concept by its name."""
        names = list(concepts)
        found: dict[str, Any] = {
            **self.scores(),
            "concepts": names,
            "identified": self.geometry.identified,
            "sizes": list(self.geometry.sizes),
            "k95_of": list(self.geometry.ranks),
            "r2_of": _plain(self.geometry.concept_r2),
            "orthogonality": [_plain(row) for row in self.geometry.orthogonality],
        }
        if self.unseen is not None:
            found["accuracy_of"] = _plain(self.unseen.accuracies)
            found["held_out"] = {f"{penalty:g}": value for penalty, value in self.unseen.held_out.items()}
        return found


def _plain(values: np.ndarray) -> list[float | None]:
    """A list with ``None``, which JSON has, for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def study_embeddings(
    z: Any,
    labels: Any,
    fraction: float = 0.1,
    geometry_fraction: float = 0.9,
    penalties: Sequence[float] = PENALTIES,
    steps: int = 500,
    seed: int = 0,
) -> EmbeddingStudy:
    """Measures geometry and unseen-combination accuracy of embeddings.

    Args:
        z: Embeddings (N, d).
        labels: (N, k); with one concept the probes of the geometry are fitted to all of it.
        fraction: Share of the combinations that probes are trained on to measure their accuracy on the others.
        geometry_fraction: Share of the combinations of the probes whose span the geometry is measured in.
        penalties: Those to choose from on held-out combinations of training.
        steps: Steps of each fit.
        seed: Seed of the splits.

    Raises:
        UserError: a setting or an array is not accepted, or not every value occurs in so few combinations.
    """
    z, labels = checked(z, labels)
    several = labels.shape[1] > 1
    rows = np.ones(len(z), dtype=bool)
    if several:
        try:
            rows = split_combinations(labels, geometry_fraction, seed)
        except UserError as error:
            raise UserError(f"geometry_{error}") from None
    placed = z - z[0]
    placed /= np.abs(placed).max() or 1.0  # no score depends on place and size; what counts as a direction does
    (probes,) = fit_probes(placed[rows], labels[rows], steps=steps)
    usable = any(bool(weight.any()) for weight in probes.weights)  # not where all embeddings are equal
    geometry = measure_geometry(placed, labels, [w.numpy() for w in probes.weights] if usable else None)
    unseen = unseen_accuracy(z, labels, fraction, penalties, steps=steps, seed=seed) if several else None
    return EmbeddingStudy(geometry, unseen)
