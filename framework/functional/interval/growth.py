"""The smooth growth of eps (Mao et al. 2024, arXiv 2306.10426; their "smooth" schedule)."""

from __future__ import annotations


def smooth_eps(step: float, start: float, end: float, eps: float) -> float:
    """Returns eps at a step: 0 until ``start``, (step − start)⁴ times a factor in the first quarter, then linear.

    The slope is continuous at the quarter, and from ``end`` on it is ``eps``.

    Args:
        step: Optimiser steps so far.
        start: Step at which it starts to grow.
        end: Step at which it is ``eps``, at or after ``start``.
        eps: The largest value.
    """
    if step >= end:
        return eps
    if step <= start:
        return 0.0
    middle = start + int(0.25 * (end - start))
    before, after = middle - start, end - middle
    if not before:
        return eps * (step - start) / after
    scale = eps / (after * 4 * before**3 + before**4)
    if step < middle:
        return float(scale * (step - start) ** 4)
    return float(scale * (before**4 + 4 * before**3 * (step - middle)))
