"""The global random generators of a process, as plain data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture_generators() -> dict[str, Any]:
    """Returns the states of torch's, numpy's and Python's generators, and of CUDA's if CUDA is in use."""
    legacy: Any = np.random.get_state()  # noqa: NPY002 - what user code draws from
    kind, keys, position, has_gauss, gauss = legacy
    version, words, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, torch.tensor(words, dtype=torch.int64), next_gauss],
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else [],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Restores the states that :func:`capture_generators` returned."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), next_gauss))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"][: torch.cuda.device_count()]])
