"""Interval bounds of every layer beside a plain forward pass, and their tightness beside backward passes.

Run: ``python benchmarks/interval_bounds.py [--repeats 9]``. In one process on one thread, the quietest of rounds in
which the sides take turns, without gradients. A box is a centre and a half-width, so that a linear layer costs two
plain ones and the absolute value of its weights: bounds take at most 3.5 passes without batch norm, 4.5 with. With a
few images a pass is little more than reading the weights, so that their absolute value counts: without a bound. The
tightness of 1,000 images takes two backward passes a class but one; the peer is one backward pass a class.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _rows import Row, duration, report
from _timing import quietest
from torch import Tensor, nn

from framework.claims import at_most
from framework.functional.interval import IntervalNetwork, pixel_box, tightness
from modules.robustness.ibp import certified_network

IMAGES = 1000
# name, channels, side, batch norm, images
NETWORKS = (
    ("mlp", 1, 28, False, 256),
    ("cnn_3", 1, 28, False, 128),
    ("cnn_3", 1, 28, True, 128),
    ("cnn_7", 3, 32, False, 32),
    ("cnn_7", 3, 32, True, 32),
    ("cnn_7", 3, 32, False, 2),
)


def forward(net: nn.Module, x: Tensor) -> Callable[[], object]:
    """A plain pass."""
    return torch.no_grad()(lambda: net(x))


def bounds(net: nn.Module, x: Tensor) -> Callable[[], object]:
    """Bounds of every layer."""
    network, box = IntervalNetwork(net), pixel_box(x, 0.01)
    return torch.no_grad()(lambda: network.propagate(box))


def backward(net: nn.Module, x: Tensor, classes: int) -> Callable[[], object]:
    """The gradient of every logit by the input, one after the other."""

    def run() -> None:
        given = x.clone().requires_grad_(True)
        logits = net(given).sum(0)
        for number in range(classes):
            torch.autograd.grad(logits[number], given, retain_graph=True)

    return run


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    for name, channels, side, norm, images in NETWORKS:
        torch.manual_seed(0)
        net = certified_network(name, channels, side, 10, batch_norm=norm).eval()
        x = torch.rand(images, channels, side, side)
        plain, ours = quietest([forward(net, x), bounds(net, x)], options.repeats, 1)
        what = f"bounds of {name}, {images} images of {channels}x{side}x{side}, {'with' if norm else 'no'} batch norm"
        bound = at_most(4.5 if norm else 3.5) if images >= 32 else None
        yield Row(what, "a plain forward pass", ours / plain, duration(plain), bound)
    for name in ("mlp", "cnn_3"):
        torch.manual_seed(0)
        net = certified_network(name, 1, 28, 10).eval()
        x, network = torch.rand(IMAGES, 1, 28, 28), IntervalNetwork(net)
        with torch.no_grad():
            y = net(x).argmax(1)
        sides = [backward(net, x, 10), lambda network=network, x=x, y=y: tightness(network, x, 0.01, y)]
        plain, ours = quietest(sides, 3, 1)
        yield Row(f"tightness of {name}, {IMAGES} images", "ten backward passes", ours / plain, duration(plain))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=9)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
