"""A grown network of templates against the same network folded into plain layers: a training step, and an evaluation.

Run: ``python benchmarks/mixture_growth.py [--device cpu] [--repeats 30] [--nets mlp wrn]``.
A step is forward, backward and SGD with momentum. The two take turns, and of each the median time counts.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from _rows import Row, duration, report
from _timing import medians
from torch import nn

from callbacks.mixture_growth import convert_to_templates, fold_, grow
from modules.initialization.mixture_growth import mlp
from modules.vision.wide_resnet import WideResNet

NETS: dict[str, list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]]] = {
    "mlp": [
        ("MLP 40-128x3, batch 128", lambda: mlp(40, [128] * 3, 10), (128, 40)),
        ("MLP 256-512x3, batch 512", lambda: mlp(256, [512] * 3, 10), (512, 256)),
        ("MLP 256-1024x2, batch 1024", lambda: mlp(256, [1024] * 2, 10), (1024, 256)),
    ],
    "wrn": [
        ("WRN-10-1, 32x32, batch 32", lambda: WideResNet(10, 1, second_norm=False), (32, 3, 32, 32)),
        ("WRN-16-2, 32x32, batch 16", lambda: WideResNet(16, 2, second_norm=False), (16, 3, 32, 32)),
        ("WRN-10-4, 32x32, batch 16", lambda: WideResNet(10, 4, second_norm=False), (16, 3, 32, 32)),
    ],
    "large": [("WRN-28-10, 32x32, batch 128", lambda: WideResNet(28, 10, second_norm=False), (128, 3, 32, 32))],
}


def rows(options: argparse.Namespace) -> Iterator[Row]:
    for name, make, shape in (net for group in options.nets for net in NETS[group]):
        torch.manual_seed(0)
        grown = make().to(options.device)
        convert_to_templates(grown)
        grow(grown)
        models = [fold_(copy.deepcopy(grown)), grown]
        x = torch.randn(shape, device=options.device)
        y = torch.randint(0, 10, shape[:1], device=options.device)

        def training(model: nn.Module, x: torch.Tensor = x, y: torch.Tensor = y) -> Callable[[], None]:
            learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimizer = torch.optim.SGD(learnt, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)

            def step() -> None:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

            return step

        def evaluating(model: nn.Module, x: torch.Tensor = x) -> Callable[[], None]:
            def run() -> None:
                with torch.inference_mode():
                    model(x)

            return run

        cells = medians([training(model) for model in models], options.repeats, warmups=3)
        for model in models:
            model.eval()
        cells += medians([evaluating(model) for model in models], options.repeats, warmups=3)
        plain, ours, evaluated, by_us = cells
        peer = "the same folded into plain layers"
        yield Row(f"training step, {name}", peer, ours / plain, duration(plain))
        yield Row(f"evaluation, {name}", peer, by_us / evaluated, duration(evaluated))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["mlp", "wrn"])


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
