"""All weights of a ViT-B by LoGAH-Small: time and memory beside drawing them afresh.

Run: ``python benchmarks/logah.py``. One process, one thread; the peak is of torch's memory above the start, over the
bytes of the weights. The graph is traced on the meta device.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from _memory import peak_bytes
from _rows import Row, duration, report
from _timing import quietest

from framework.claims import at_most
from modules.initialization.logah import SIZES, HyperNetwork, trace


def rows(options: argparse.Namespace) -> Iterator[Row]:
    import timm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.device("meta"):
        net = timm.create_model("vit_base_patch16_224")
    image = torch.zeros(1, 3, 224, 224, device="meta")
    dim, rank, layers, heads = SIZES["small"]
    hypernetwork = HyperNetwork(dim, rank, layers, heads).eval()
    graph = trace(net, (image,))
    weights = sum(4 * parameter.numel() for parameter in net.parameters())

    @torch.no_grad()
    def predicted() -> object:
        return hypernetwork([graph])

    def drawn() -> object:
        return timm.create_model("vit_base_patch16_224")

    fresh, ours, traced = quietest([drawn, predicted, lambda: trace(net, (image,))], options.repeats, 1)
    what = f"the weights of a ViT-B ({weights / 2**20:.0f} MiB)"
    yield Row(what, "drawing them, by timm", ours / fresh, duration(fresh))
    yield Row(
        what, "the weights", peak_bytes(predicted) / weights, f"{weights / 2**20:.0f} MiB", at_most(3), "peak memory"
    )
    yield Row("the graph of a ViT-B", "drawing its weights, by timm", traced / fresh, duration(fresh))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
