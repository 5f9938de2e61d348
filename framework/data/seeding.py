"""Seeds the global generators during one batch, with little overhead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """Hashes integers to 63 bits (splitmix64), the same on every machine and Python."""
    state = 0
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + (number & _MASK)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def seed_generators(seed: int) -> None:
    """Seeds torch's CPU generator, numpy's and Python's."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - what user code draws from
    random.seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context manager that seeds the global generators and restores them afterwards."""
    torch_state = torch.default_generator.get_state()
    numpy_state = _numpy.take()
    python_state = random.getstate()
    try:
        seed_generators(seed)
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        _numpy.put_back(numpy_state)
        random.setstate(python_state)


class _WholeState:
    """Reads and writes the whole state of numpy's generator: about 120 µs."""

    def take(self) -> Any:
        return np.random.get_state(legacy=False)  # noqa: NPY002

    def put_back(self, state: Any) -> None:
        np.random.set_state(state)  # noqa: NPY002


class _Peek:
    """Replaces a bit generator while numpy's cached normal number is read."""

    @property
    def state(self) -> dict[str, Any]:
        return {"bit_generator": "none", "state": None}

    @state.setter
    def state(self, value: Any) -> None:
        pass


class _Swap:
    """Replaces numpy's bit generator by another one, and saves the cached normal number: about 5 µs."""

    def __init__(self) -> None:
        self.random_state: Any = np.random.mtrand._rand
        self.own = np.random.MT19937(0)
        self.peek = _Peek()
        self.set_bit_generator = getattr(np.random, "set_bit_generator")  # noqa: B009 - not in numpy's stubs

    def take(self) -> Any:
        held = self.random_state
        generator = held._bit_generator
        held._bit_generator = self.peek
        try:
            rest = held.get_state(legacy=False)
        finally:
            held._bit_generator = generator
        self.set_bit_generator(self.own)
        return generator, rest

    def put_back(self, state: Any) -> None:
        generator, rest = state
        self.set_bit_generator(generator)
        self.random_state._bit_generator = self.peek
        try:
            self.random_state.set_state(rest)
        finally:
            self.random_state._bit_generator = generator


def _numpy_way() -> Any:
    """Returns the fast implementation if this numpy's internals allow it, which is tested once; else the slow one."""
    slow = _WholeState()
    before = slow.take()
    try:
        swap = _Swap()
        np.random.seed(1)  # noqa: NPY002
        expected = np.random.standard_normal(4)  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        found = [np.random.standard_normal()]  # noqa: NPY002 - its twin is held back now
        state = swap.take()
        np.random.seed(2)  # noqa: NPY002
        np.random.standard_normal(3)  # noqa: NPY002
        swap.put_back(state)
        found += list(np.random.standard_normal(3))  # noqa: NPY002
        return swap if found == list(expected) else slow
    except Exception:  # other versions of numpy can raise any error
        return slow
    finally:
        slow.put_back(before)


_numpy = _numpy_way()
