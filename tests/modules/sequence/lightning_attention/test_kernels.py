"""The Triton kernel in Triton's interpreter, which must be chosen before Triton is imported: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import torch
from modules.sequence.lightning_attention import lightning_attention

torch.manual_seed(0)
# lengths with and without a ragged tile, widths that are no powers of two, a width that is split (160 > 128)
for n, d, e, dtype, limit in [
    (1, 8, 8, torch.float32, 2e-6),
    (70, 16, 24, torch.float32, 2e-6),
    (130, 32, 72, torch.float32, 2e-6),
    (65, 160, 40, torch.float32, 2e-6),
    (70, 16, 24, torch.float16, 4e-3),
]:
    q, k = (torch.randn(2, 3, n, d).to(dtype).requires_grad_() for _ in range(2))
    v = torch.randn(2, 3, n, e).to(dtype).requires_grad_()
    state = torch.randn(2, 3, d, e).requires_grad_()
    slope = torch.tensor([0.0, 0.02, 8.0])
    results = []
    for form in ("triton", "tiled"):
        out, last = lightning_attention(q, k, v, slope, state, return_state=True, form=form)
        generator = torch.Generator().manual_seed(1)
        upstream = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in (out, last)]
        results.append([out, last, *torch.autograd.grad((out, last), (q, k, v, state), upstream)])
    for name, one, other in zip(["o", "S", "dq", "dk", "dv", "dS"], *results, strict=True):
        error = float((one - other).detach().abs().max() / other.detach().abs().max())
        print(n, d, e, dtype, name, error)
        assert one.dtype == other.dtype and error < limit, (n, d, e, dtype, name, error)
    plain = [lightning_attention(q, k, v, slope, form=form) for form in ("triton", "tiled")]
    assert (plain[0] - plain[1]).abs().max() <= limit * plain[1].abs().max()

q, state = torch.randn(2, 3, 0, 8, requires_grad=True), torch.randn(2, 3, 8, 8, requires_grad=True)
for form in ("triton", "tiled"):  # no tokens leave the state as it was
    out, last = lightning_attention(q, q, q, slope, state, return_state=True, form=form)
    assert out.shape == q.shape and torch.equal(last, state), form
    to_state, to_q = torch.autograd.grad(last.sum() + out.sum(), (state, q))
    assert torch.equal(to_state, torch.ones_like(state)) and to_q.shape == q.shape, form

# slopes of a model in half precision: decays are still float32
q, k, v = (torch.randn(1, 3, 40, 8, requires_grad=True) for _ in range(3))
state, half = torch.randn(1, 3, 8, 8, requires_grad=True), torch.tensor([0.003, 0.02, 0.3]).bfloat16()
results = []
for kind, form in ((half, "triton"), (half.float(), "tiled")):
    out, last = lightning_attention(q, k, v, kind, state, return_state=True, form=form)
    results.append([out, *torch.autograd.grad(last.square().sum() + out.square().sum(), (q, k, v, state))])
for one, other in zip(*results, strict=True):
    assert (one - other).detach().abs().max() < 1e-5 * other.detach().abs().max()
print("done")
"""


def test_the_kernel_and_its_gradients_equal_the_tiled_form():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert ran.stdout.endswith("done\n")
