"""Rows and columns of the affine map of a ResNet-18 against the network's own gradients and forward passes.

Run: ``python benchmarks/linear_scope.py [--sides 32 64] [--repeats 5]``.
Random weights, float32, one image. The interpreter is open: tracing the network once is a row of its own. Best time of
a few repeats; the peak is of torch's memory above the start.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from _memory import peak_bytes
from _rows import Row, duration, report
from _timing import quietest
from torch.func import jacrev

from framework.claims import at_most
from framework.functional.linear_scope import LinearInterpreter

ROWS, COLUMNS = 10, 64


def rows(options: argparse.Namespace) -> Iterator[Row]:
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=1000).eval().requires_grad_(False)
    for side in options.sides:
        yield from of_size(net, torch.randn(1, 3, side, side), options.repeats)


def of_size(net: torch.nn.Module, x: torch.Tensor, repeats: int) -> Iterator[Row]:
    pixels = [97 * i % x.numel() for i in range(COLUMNS)]

    def gradients() -> None:
        for row in range(ROWS):
            z = x.clone().requires_grad_()
            torch.autograd.grad(net(z)[0, row], z)

    def dense() -> None:
        jacrev(lambda z: net(z)[0, :ROWS])(x)

    @torch.no_grad()
    def forwards() -> None:
        for pixel in pixels:
            z = torch.zeros_like(x)
            z.view(-1)[pixel] = 1
            net(z)

    def opened() -> None:
        with LinearInterpreter(net, x, dtype=torch.float32):
            pass

    setting = f"ResNet-18, {x.shape[-1]}x{x.shape[-1]}"
    with LinearInterpreter(net, x, dtype=torch.float32) as scope:
        found = scope.rows(range(ROWS)).values[0]
        error = float((found - jacrev(lambda z: net(z)[0, :ROWS])(x)[:, 0]).abs().max() / found.abs().max())
        if error > 1e-4:
            raise SystemExit(f"the rows differ from jacrev's by {error:.1e}")

        def ours() -> None:
            scope.rows(range(ROWS))

        def columns() -> None:
            scope.columns(pixels)

        slow, full, fast = quietest([gradients, dense, ours], repeats, warmups=1)
        apart, joint, tracing = quietest([forwards, columns, opened], max(2, repeats // 2), warmups=1)
        peaks = [peak_bytes(run) for run in (gradients, dense, ours, forwards, columns)]
    text, peer = f"{ROWS} rows, {setting}", "separate autograd.grad calls"
    yield Row(text, peer, fast / slow, duration(slow), at_most(1 / 2.5))
    yield Row(text, peer, peaks[2] / peaks[0], f"{peaks[0] / 2**20:.1f} MiB", None, "peak memory")
    yield Row(text, "torch.func.jacrev", fast / full, duration(full))
    yield Row(text, "torch.func.jacrev", peaks[2] / peaks[1], f"{peaks[1] / 2**20:.1f} MiB", None, "peak memory")
    text, peer = f"{COLUMNS} columns, {setting}", "single forward passes"
    yield Row(text, peer, joint / apart, duration(apart), at_most(1 / 4))
    yield Row(text, peer, peaks[4] / peaks[3], f"{peaks[3] / 2**20:.1f} MiB", None, "peak memory")
    yield Row(f"opening it, {setting}", f"{ROWS} separate autograd.grad calls", tracing / slow, duration(slow))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--repeats", type=int, default=5)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
