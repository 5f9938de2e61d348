"""Condition numbers of a ViT-B's weights: framework.functional.spectra against one float32 SVD a tensor and against
peft's.

Run: ``python benchmarks/kappa_tune.py [--model vit_base_patch16_224] [--threads 1 2] [--repeats 2]``.
Everything within one process; best of the repeats, which alternate, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import timm
import torch
from _rows import Row, duration, report
from _timing import quietest

from callbacks.kappa_tune import candidates, rank_by_condition
from framework.claims import at_most


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.manual_seed(0)
    model = timm.create_model(options.model, pretrained=False)
    weights = candidates(model)
    layers = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    def svds() -> dict[str, float]:
        values = {name: torch.linalg.svdvals(weight) for name, weight in weights.items()}
        return {name: float(s[0] / (s[-1] + 1e-8)) for name, s in values.items()}

    def ours(names: set[str] | None = None) -> dict[str, float]:
        chosen = {name: weight for name, weight in weights.items() if names is None or name in names}
        return {row["name"]: row["kappa"] for row in rank_by_condition(chosen)}

    runs: list[Callable[[], object]] = [ours, svds, lambda: ours(layers)]
    try:
        from peft import find_kappa_target_modules
    except ImportError:
        find_kappa_target_modules = None
    else:
        runs.append(lambda: find_kappa_target_modules(model, show_progress=False))
    for threads in options.threads:
        torch.set_num_threads(threads)
        found = quietest(runs, options.repeats)
        text = f"condition numbers of {options.model}, {len(weights)} tensors, {threads} threads"
        yield Row(text, "one float32 SVD a tensor", found[0] / found[1], duration(found[1]), at_most(0.5))
        text = f"the same, its {len(layers)} linear layers"
        if find_kappa_target_modules is None:
            yield Row(text, "peft.find_kappa_target_modules, which this peft has not", float("nan"))
        else:
            peer = "peft.find_kappa_target_modules"
            yield Row(text, peer, found[2] / found[3], duration(found[3]), at_most(0.5))
    exact = {name: torch.linalg.svdvals(weight.double()) for name, weight in weights.items()}
    worst, theirs = (
        max(abs(found[n] / float(s[0] / (s[-1] + 1e-8)) - 1) for n, s in exact.items()) for found in (ours(), svds())
    )
    yield Row("largest relative error of κ", "one float32 SVD a tensor", worst / theirs, f"{theirs:.1e}", unit="error")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
