"""What is known of each sample: proven, broken, undecided, or a failure of the method itself (arXiv 2306.10426)."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.functional.attacks import pgd
from framework.functional.evaluating import evaluating
from framework.functional.interval import IntervalNetwork, certified, pixel_box
from framework.settings import at_least, between

VERDICTS = ("certified", "attacked", "unknown", "failed")


def verdicts(
    network: IntervalNetwork,
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int = 40,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Returns the index in ``VERDICTS`` of each sample, (B,) int64, in evaluation mode.

    ``certified``: right in the whole box, by bounds. ``attacked``: another class at x itself, or at a point of the box
    that an attack found. ``failed``: a bound or an output is not finite, so nothing is known. ``unknown``: the rest.

    Args:
        network: The network.
        x: Inputs (B, …) in [0, 1] units.
        y: Classes (B,).
        eps: Largest change of a number, from 0 to 1.
        steps: Gradient steps of an attack.
        restarts: Attacks of the samples that are not certified; the first starts at x, the others at random points.
        seed: Of the random starts.

    Raises:
        UserError: a setting is not accepted, or the inputs are outside [0, 1].
    """
    at_least(1, steps=steps, restarts=restarts)
    at_least(0, seed=seed)
    between(0, 1, eps=eps)
    found = torch.full_like(y, VERDICTS.index("unknown"))
    if not len(x):
        return found
    with evaluating(network.net), torch.no_grad():
        margins = network.propagate(pixel_box(x, eps), y).margins
        assert margins is not None
        logits = network.net(x)
        finite = margins.isfinite().all(1) & logits.isfinite().all(1)
        found[logits.argmax(1) != y] = VERDICTS.index("attacked")
        found[certified(margins, y) & finite & (logits.argmax(1) == y)] = VERDICTS.index("certified")
        found[~finite] = VERDICTS.index("failed")
        generator = torch.Generator().manual_seed(seed)
        for restart in range(restarts if eps > 0 else 0):
            left = (found == VERDICTS.index("unknown")).nonzero()[:, 0]
            if not len(left):
                break
            moved = pgd(
                network.net,
                x[left],
                y[left],
                eps,
                "linf",
                steps,
                generator=generator if restart else None,
                keep_best=True,
            )
            broken = network.net(moved).argmax(1) != y[left]
            found[left[broken]] = VERDICTS.index("attacked")
    return found
