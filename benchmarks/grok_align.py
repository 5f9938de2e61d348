"""Costs of GrokAlign's parts beside a plain training step of the same network, in one process on one thread.

Run: ``python benchmarks/grok_align.py [--repeats 15]``. A step is forward, loss, backward and AdamW's step. The
penalty shares the step's own forward pass, as in training. The quietest of rounds in which the sides take turns. Only
the digits' perceptron has a bound; the others are reported: attention is computed by the unfused kernel, and on a CPU
the second derivative of convolutions gains nothing from ``channels_last``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from _rows import Row, duration, report
from _timing import quietest, several
from torch import Tensor, nn

from callbacks.grok_align import GrokAlign
from callbacks.grokfast import filter_gradients
from framework.claims import Bound, at_most
from framework.editing.capture import Capture
from framework.protocols import second_derivatives
from modules.interpretability.grok_align import BiasFreeMLP


class Steps:
    """Training steps of one network.

    Args:
        net: Maps x to logits.
        x: Inputs of the batch.
        classes: Number of classes.
    """

    def __init__(self, net: nn.Module, x: Tensor, classes: int = 10) -> None:
        self.net, self.x = net, x
        self.y = torch.arange(len(x)) % classes
        self.optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
        self.penalty, self.capture = GrokAlign(1e-3), Capture(net, key="grok_align")
        self.penalty._batches = 1  # so that the centroid is not measured: in training it is every 50 batches
        self.average: dict[str, Tensor] = {}

    def plain(self) -> None:
        """A step without a penalty."""
        self.finish(nn.functional.cross_entropy(self.net(self.x), self.y))

    def penalised(self) -> None:
        """A step with it."""
        self.penalty._batches += 1 + (self.penalty._batches % 50 == 0)
        with second_derivatives():
            with self.capture.watching():
                loss = nn.functional.cross_entropy(self.net(self.x), self.y)
            found = self.capture.captured((0,))
            unused: Any = None
            self.finish(loss + 1e-3 * self.penalty.penalty(unused, unused, loss, found))
        self.capture.forget()

    def filtered(self) -> None:
        """A step with Grokfast."""
        nn.functional.cross_entropy(self.net(self.x), self.y).backward()
        filter_gradients(self.net, self.average)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def finish(self, loss: Tensor) -> None:
        """Backward and the optimiser's step."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def rows(options: argparse.Namespace) -> Iterator[Row]:
    import timm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    perceptron = BiasFreeMLP(64, [100, 100, 100], 10).double()
    small = {"num_classes": 10, "in_chans": 3}
    resnet = timm.create_model("test_resnet", **small)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, depth=4, embed_dim=64, num_heads=4, **small
    )
    images = torch.randn(16, 3, 32, 32)
    last = torch.channels_last
    cases: dict[str, tuple[Steps, int, Bound | None]] = {
        "a perceptron 64-100-100-100-10, float64, batch 128": (
            Steps(perceptron, torch.randn(128, 64, dtype=torch.float64)),
            20,
            at_most(3.0),
        ),
        "a small ResNet on 16 images of 32x32": (Steps(resnet, images), 3, None),
        "the same in channels_last": (
            Steps(timm.create_model("test_resnet", **small).to(memory_format=last), images.to(memory_format=last)),
            3,
            None,
        ),
        "a small ViT on 16 images of 32x32": (Steps(vit, images), 3, None),
    }
    for name, (steps, count, bound) in cases.items():
        plain, ours = quietest([several(s, count) for s in (steps.plain, steps.penalised)], options.repeats, 2)
        yield Row(f"a step with GrokAlign of {name}", "without", ours / plain, duration(plain / count), bound)
    steps = next(iter(cases.values()))[0]
    plain, ours = quietest([several(s, 20) for s in (steps.plain, steps.filtered)], options.repeats, 2)
    yield Row("a step with Grokfast of the perceptron", "without", ours / plain, duration(plain / 20))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=15)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
