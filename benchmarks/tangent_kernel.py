"""Tangent kernels: ours against the product of the whole Jacobian with itself, and against neural-tangents.

Run: ``python benchmarks/tangent_kernel.py``, one thread. Bytes are the most that tensors held at once beyond what was
there before. neural-tangents is optional: where it cannot be imported its rows say so.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _rows import Row, duration, report
from _timing import medians
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from framework.claims import at_most
from framework.functional.ntk import infinite_kernels, tangent_kernel
from modules.dynamics.ntk import NTKMLP

POINTS, WIDTH, DEPTH = 64, 256, 4


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.seen | before:
                    self.seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return found

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def held(call: Callable[[], object]) -> int:
    """Returns the most bytes held at once."""
    with Held() as counted:
        call()
    return counted.most


class First(nn.Module):
    """Member 0 of networks side by side."""

    def __init__(self, net: NTKMLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, C) of (N, d)."""
        return self.net(x)[0]


def whole(model: nn.Module, x: Tensor) -> Tensor:
    """Returns J Jᵀ with all of J at once, as torch's tutorial on tangent kernels has it."""
    state = {name: value.detach() for name, value in model.named_parameters()}

    def output(values: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(model, values, (point[None],))[0]

    jacobians = vmap(jacrev(output), (None, 0))(state, x)
    j = torch.cat([value.flatten(1) for value in jacobians.values()], 1)
    return j @ j.T


def library(x: np.ndarray) -> Callable[[], object] | str:
    """Returns the limit kernel by neural-tangents, or why not."""
    try:
        import jax
        from neural_tangents import stax
    except ImportError as error:
        return f"neural-tangents absent ({error})"
    jax.config.update("jax_enable_x64", True)
    dense = {"W_std": 1.0, "b_std": 0.1, "parameterization": "ntk"}
    layers = [layer for _ in range(DEPTH - 1) for layer in (stax.Dense(1, **dense), stax.Relu())]
    kernel = jax.jit(lambda points: stax.serial(*layers, stax.Dense(1, **dense))[2](points, None, ("nngp", "ntk")))
    return lambda: kernel(x).ntk.block_until_ready()


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = NTKMLP(10, WIDTH, DEPTH)
    x, model = torch.randn(POINTS, 10, dtype=torch.float64), First(net)
    calls = [lambda: whole(model, x), lambda: tangent_kernel(model, x, chunk=16), lambda: net.kernel(x)]
    kernels = [calls[0](), calls[1](), calls[2]()[0]]
    assert all(torch.allclose(kernel, kernels[0]) for kernel in kernels)
    seconds, sizes = medians(calls, 7), [held(call) for call in calls]
    for name, index in (("tangent_kernel", 1), ("NTKMLP.kernel", 2)):
        text, peer = f"{name}, {POINTS} points, width {WIDTH}", "a product with the whole Jacobian"
        yield Row(text, peer, seconds[index] / seconds[0], duration(seconds[0]), at_most(1.0) if index == 2 else None)
        size = f"{sizes[0] / 1e6:.0f} MB"
        yield Row(text, peer, sizes[index] / sizes[0], size, at_most(1.0), unit="bytes held")
    many = torch.randn(512, 64, dtype=torch.float64)
    peer_call = library(many.numpy())
    if isinstance(peer_call, str):
        yield Row("infinite_kernels, 512 points", peer_call, float("nan"))
    else:
        ours, theirs = medians([lambda: infinite_kernels(many), peer_call], 7)
        yield Row("infinite_kernels, 512 points", "neural-tangents, compiled", ours / theirs, duration(theirs))


if __name__ == "__main__":
    report(__file__, __doc__, rows)
