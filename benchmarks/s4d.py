"""S4D's kernel and layer against the plain form that holds exp(ΔA·l) for every mode and sample.

Run: ``python benchmarks/s4d.py [--channels 64] [--lengths 1024 2048 ...] [--device cpu]``.
Each cell is forward plus backward: best time of a few repeats, and the peak of torch's memory above the start.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from modules.sequence.s4d import S4DLayer
from modules.sequence.s4d import layer as layer_module
from modules.sequence.s4d.kernel import ssm_kernel, vandermonde_naive


def plain_kernel(dt: Tensor, modes: Tensor, b: Tensor, c: Tensor, length: int, *_: object) -> Tensor:
    z = dt[:, None] * modes
    return vandermonde_naive(c * b * (torch.exp(z) - 1) / modes, z, length)


def plain_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n).unsqueeze(1) * torch.fft.rfft(kernel, n), n)[..., : u.shape[-1]]


def seconds(run: Callable[[], None], device: str, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def peak_bytes(run: Callable[[], None], device: str) -> int:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - start
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--state", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    layer = S4DLayer(options.channels, options.state).to(options.device)
    ours = (layer_module.ssm_kernel, layer_module.fft_convolution)

    def kernel(length: int) -> None:
        layer.zero_grad()
        layer.kernel(length).square().sum().backward()

    def whole(length: int) -> None:
        layer.zero_grad()
        u = torch.ones(options.batch, length, options.channels, device=options.device, requires_grad=True)
        layer(u).square().sum().backward()

    print(f"H={options.channels}, N={options.state}, batch={options.batch}, {options.device}, forward + backward")
    print(f"{'part':8}{'L':>7}{'plain ms':>11}{'ours ms':>10}{'ratio':>8}{'plain MB':>11}{'ours MB':>10}{'ratio':>8}")
    for name, part in (("kernel", kernel), ("layer", whole)):
        for length in options.lengths:
            cells = []
            for forms in ((plain_kernel, plain_convolution), ours):
                layer_module.ssm_kernel, layer_module.fft_convolution = forms  # type: ignore[assignment]

                def run(length: int = length, part: Callable[[int], None] = part) -> None:
                    part(length)

                run()
                cells.append((seconds(run, options.device, options.repeats), peak_bytes(run, options.device)))
            (slow, much), (fast, little) = cells
            print(
                f"{name:8}{length:7d}{slow * 1e3:11.1f}{fast * 1e3:10.1f}{slow / fast:8.1f}"
                f"{much / 2**20:11.1f}{little / 2**20:10.1f}{much / little:8.1f}",
                flush=True,
            )
    with torch.no_grad():
        error = (ssm_kernel(*layer.continuous(), 1024) - plain_kernel(*layer.continuous(), 1024)).abs().max()
    print(f"largest difference of the kernels at L=1024: {float(error):.1e}")


if __name__ == "__main__":
    main()
