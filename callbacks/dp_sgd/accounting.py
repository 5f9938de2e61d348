"""The privacy that training has spent: ε at a δ, from the noise, the sampling rate and the number of steps.

Opacus' accountants: PRV (Gopi, Lee & Wutschitz 2021, arXiv 2106.02848), an upper bound within 0.01 of the true ε, and
RDP (Mironov, Talwar & Zhang 2019, arXiv 1908.10530), faster and up to a fifth larger.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, Literal, get_args

from framework.errors import UserError
from framework.settings import above, at_least, between, one_of

Accountant = Literal["prv", "rdp"]
Segment = Sequence[float]
"""Noise multiplier σ, sampling rate q, number of steps."""

_TOO_LARGE = 50.0  # above it PRV would need memory in proportion to ε, for an ε that means little
_ORDERS = [1.25, 1.5, 1.75, 2.25, 2.5, 3.5, 4.5, *range(2, 64), *(64 * 2**k for k in range(7))]


@cache
def _accountants() -> Any:
    """Imports Opacus, which takes seconds, and removes the handler that it puts on the root logger.

    Raises:
        UserError: it is not installed.
    """
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from opacus import accountants
    except ImportError as error:
        raise UserError("dp_sgd: Opacus is not installed; pip install 'modular-framework[privacy]'") from error
    finally:
        root.handlers[:], root.level = before
    return accountants


def epsilon_of(history: Iterable[Segment], delta: float, accountant: Accountant = "prv") -> float:
    """Returns ε of a training of one or several segments, infinite without noise and 0 without a step.

    Args:
        history: The segments.
        delta: δ.
        accountant: ``prv`` or ``rdp``; above 50 both are RDP's.

    Raises:
        UserError: a setting is not accepted, or Opacus is not installed.
    """
    between(0, 1, "()", delta=delta)
    one_of(get_args(Accountant), accountant=accountant)
    kept = tuple((float(sigma), float(rate), int(steps)) for sigma, rate, steps in history if steps)
    if not kept:
        return 0.0
    if any(sigma == 0 for sigma, _, _ in kept):
        return math.inf
    return _epsilon(kept, delta, accountant)


@lru_cache(16)  # it is asked for several times at the end of an epoch
def _epsilon(kept: tuple[tuple[float, float, int], ...], delta: float, accountant: Accountant) -> float:
    module = _accountants()
    rough = module.RDPAccountant()
    rough.history = list(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the ends of the range of orders
        found = float(rough.get_epsilon(delta, alphas=_ORDERS))
        if accountant == "rdp" or found > _TOO_LARGE:
            return found
        tight = module.PRVAccountant()
        tight.history = list(kept)
        return min(found, float(tight.get_epsilon(delta)))


def noise_multiplier_for(
    epsilon: float, delta: float, sample_rate: float, steps: int, accountant: Accountant = "prv"
) -> float:
    """Returns σ with which a training spends nearly ``epsilon``, never more (to 0.2 % of σ).

    Args:
        epsilon: The ε to be spent.
        delta: δ.
        sample_rate: q, probability that a sample is in a batch.
        steps: Number of steps.
        accountant: ``prv`` or ``rdp``.

    Raises:
        UserError: a setting is not accepted, ε cannot be reached by any noise, or Opacus is not installed.
    """
    above(0, epsilon=epsilon)
    between(0, 1, "(]", sample_rate=sample_rate)
    at_least(1, steps=steps)

    def spent(sigma: float, by: Accountant) -> float:
        return epsilon_of([(sigma, sample_rate, steps)], delta, by)

    high = 1.0
    while spent(high, "rdp") > epsilon:
        high *= 4
        if high > 1e6:
            raise UserError(f"epsilon: {epsilon:g} is not accepted; no noise is enough for it at delta {delta:g}")
    low = high / 4
    while spent(low, "rdp") <= epsilon:
        low /= 4
    within = 1.002 if accountant == "rdp" else 1.02
    rough = _bisected(low, high, lambda sigma: spent(sigma, "rdp") <= epsilon, within)
    if accountant == "rdp":
        return rough
    low = 0.85 * rough
    while spent(low, "prv") <= epsilon:
        rough, low = low, 0.85 * low
    return _bisected(low, rough, lambda sigma: spent(sigma, "prv") <= epsilon)


def _bisected(low: float, high: float, enough: Callable[[float], bool], within: float = 1.002) -> float:
    """Returns the smallest number between the two that is enough, from above, up to a factor of ``within``."""
    while high > within * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def steps_within(
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    sample_rate: float,
    most: int,
    history: Sequence[Segment] = (),
    accountant: Accountant = "prv",
) -> int:
    """Returns how many further steps, up to ``most``, spend at most ``epsilon`` in all.

    Args:
        epsilon: The budget.
        delta: δ.
        noise_multiplier: σ of the further steps.
        sample_rate: Their q.
        most: Largest number of interest.
        history: The segments before them.
        accountant: ``prv`` or ``rdp``.
    """

    def fits(steps: int) -> bool:
        return epsilon_of([*history, (noise_multiplier, sample_rate, steps)], delta, accountant) <= epsilon

    if fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
