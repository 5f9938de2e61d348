"""Second derivatives: what a penalty on gradients asks of layers that compute by kernels of their own.

Most fused kernels have a first derivative only. Within :func:`second_derivatives` attention is computed by PyTorch's
unfused kernel, and a layer that asks :func:`second_derivatives_needed` computes by slower operations that PyTorch
differentiates any number of times. The rest of a run keeps the fast form and its bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

_depth = 0  # of the process, as attention's own switch is: a backward pass may run in threads of its own


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Within it, forward and backward pass alike, what is computed can be differentiated twice where its layers can."""
    global _depth
    _depth += 1
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _depth -= 1


def second_derivatives_needed() -> bool:
    """Whether a layer is to compute by operations that can be differentiated twice."""
    return _depth > 0
