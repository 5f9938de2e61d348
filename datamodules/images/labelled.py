"""Labelled images in memory, and splitting them so that every class keeps its share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from framework.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size with a class each.

    Attributes:
        images: uint8, shape ``(N, C, H, W)``, 0 to 255.
        labels: int64, shape ``(N,)``, 0 to ``len(class_names) - 1``.
        class_names: Name of each class.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> LabelledImages:
        """Returns the images at ``rows``."""
        return LabelledImages(self.images[rows], self.labels[rows], self.class_names)


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits row numbers in two so that every class has the same share of both parts, as nearly as whole rows allow.

    Args:
        labels: Class of each row, shape ``(N,)``.
        fraction: Share of the rows in the second part; the part has ``round(fraction * N)`` rows.
        seed: The split depends on the labels, the fraction and this number alone.

    Returns:
        Row numbers of the first and of the second part, each in ascending order.

    Raises:
        UserError: the fraction is outside [0, 1), or leaves the second part empty although it is above 0.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"fraction of a split: {fraction!r} is not at least 0 and below 1")
    count = round(fraction * len(labels))
    if fraction and not 0 < count < len(labels):
        raise UserError(f"a fraction of {fraction} leaves one side of the split of {len(labels)} samples empty")
    generator = np.random.default_rng(seed)
    key = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # Evenly spread keys in random order: the smallest `count` keys over all classes hold each class's share.
        key[rows] = (generator.permutation(len(rows)) + generator.random()) / len(rows)
    order = np.argsort(key, kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])
