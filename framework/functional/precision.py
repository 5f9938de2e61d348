"""The precision of a part of a computation, whatever precision surrounds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager:
    """Returns a context in which autocast is disabled: operations keep the types of their inputs.

    Args:
        device: Device of the tensors. Any device is accepted, also ``meta``, which autocast does not support.
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
