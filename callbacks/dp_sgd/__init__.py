"""DP-SGD: trains with differential privacy, by clipped per-sample gradients and noise."""

from callbacks.dp_sgd.callback import DPSGD

__all__ = ["DPSGD"]
