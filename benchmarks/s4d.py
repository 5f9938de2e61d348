"""S4D's kernel and layer against the plain form that holds exp(ΔA·l) for every mode and sample.

Run: ``python benchmarks/s4d.py [--channels 64] [--lengths 1024 2048 ...] [--device cpu]``.
Each cell is forward plus backward: best time of a few repeats, and the peak of torch's memory above the start.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _memory import peak_bytes
from _rows import Row, duration, report
from _timing import quietest
from torch import Tensor

from framework.claims import at_most
from modules.sequence.s4d import SSM, S4DLayer
from modules.sequence.s4d import layer as layer_module
from modules.sequence.s4d.kernel import ssm_kernel, vandermonde_naive


def plain_kernel(dt: Tensor, modes: Tensor, b: Tensor, c: Tensor, length: int, *_: object) -> Tensor:
    z = dt[:, None] * modes
    return vandermonde_naive(c * b * (torch.exp(z) - 1) / modes, z, length)


def plain_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n).unsqueeze(1) * torch.fft.rfft(kernel, n), n)[..., : u.shape[-1]]


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.manual_seed(0)
    layer = S4DLayer(options.channels, SSM(options.state)).to(options.device)
    ours = (layer_module.ssm_kernel, layer_module.fft_convolution)

    def kernel(length: int) -> None:
        layer.zero_grad()
        layer.kernel(length).square().sum().backward()

    def whole(length: int) -> None:
        layer.zero_grad()
        u = torch.ones(options.batch, length, options.channels, device=options.device, requires_grad=True)
        layer(u).square().sum().backward()

    with torch.no_grad():
        error = (ssm_kernel(*layer.continuous(), 1024) - plain_kernel(*layer.continuous(), 1024)).abs().max()
    if float(error) > 1e-3:
        raise SystemExit(f"the kernels differ by {float(error):.1e}")
    setting = f"H = {options.channels}, N = {options.state}"
    for name, part in ((f"kernel, {setting}", kernel), (f"layer, {setting}, batch of {options.batch}", whole)):
        for length in options.lengths:
            cells = []
            for forms in ((plain_kernel, plain_convolution), ours):
                layer_module.ssm_kernel, layer_module.fft_convolution = forms  # type: ignore[assignment]

                def run(length: int = length, part: Callable[[int], None] = part) -> None:
                    part(length)

                cells.append((quietest([run], options.repeats, warmups=1)[0], peak_bytes(run, options.device)))
            (slow, much), (fast, little) = cells
            text, peer = f"{name}, L = {length:,}", "the plain sum over modes and samples"
            yield Row(text, peer, fast / slow, duration(slow), at_most(1.0))
            yield Row(text, peer, little / much, f"{much / 2**20:.0f} MiB", at_most(1.0), "peak memory")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--state", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
