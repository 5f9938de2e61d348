"""Condition numbers of a ViT-B's weights: framework.spectra against one float32 SVD a tensor and against peft's.

Run: ``python benchmarks/kappa_tune.py [--model vit_base_patch16_224] [--threads 1 2] [--repeats 2]``.
Everything within one process; best of the repeats, which alternate, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import timm
import torch

from callbacks.kappa_tune import candidates, rank_by_condition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
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

    runs: dict[str, Callable[[], object]] = {
        "one float32 SVD a tensor": svds,
        "ours, all tensors": ours,
        "ours, linear layers": lambda: ours(layers),
    }
    try:
        from peft import find_kappa_target_modules
    except ImportError:
        print("this peft has no find_kappa_target_modules")
    else:
        runs["peft, linear layers"] = lambda: find_kappa_target_modules(model, show_progress=False)

    print(f"{options.model}: {len(weights)} weights, {len(layers)} of them of linear layers")
    for threads in options.threads:
        torch.set_num_threads(threads)
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(options.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
        for name, seconds in best.items():
            print(f"{threads} threads  {name:26}{seconds:8.2f} s", flush=True)
        print(f"{threads} threads  SVD / ours: {best['one float32 SVD a tensor'] / best['ours, all tensors']:.2f}")
        if "peft, linear layers" in best:
            print(f"{threads} threads  peft / ours: {best['peft, linear layers'] / best['ours, linear layers']:.2f}")
    exact = {name: torch.linalg.svdvals(weight.double()) for name, weight in weights.items()}
    for name, found in (("ours", ours()), ("float32 SVD", svds())):
        worst = max(abs(found[n] / float(s[0] / (s[-1] + 1e-8)) - 1) for n, s in exact.items())
        print(f"largest relative error of κ, {name}: {worst:.1e}")


if __name__ == "__main__":
    main()
