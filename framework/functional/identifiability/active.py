"""Units of a latent code that are used at all: without them a decoder's Jacobian only looks sparse."""

from __future__ import annotations

from typing import Any

import numpy as np

from framework.settings import above, finite_entries

ACTIVE = 0.01


def active_units(means: Any, threshold: float = ACTIVE) -> np.ndarray:
    """Returns which latents are active, (d,): the variance over the data of the posterior's mean is above a threshold.

    Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519. A latent that has collapsed to the prior has none.

    Args:
        means: Posterior means (N, d).
        threshold: In units of the prior's variance.

    Raises:
        UserError: the threshold is not above 0, or a mean is not finite.
    """
    above(0, threshold=threshold)
    found = np.asarray(means, np.float64)
    finite_entries(means=found)
    active: np.ndarray = found.var(0) > threshold
    return active
