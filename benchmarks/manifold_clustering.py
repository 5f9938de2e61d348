"""Sinkhorn projection and training steps of manifold clustering, beside POT and the same equations written plainly.

Run: ``python benchmarks/manifold_clustering.py [--repeats 9]``, on one thread. POT's ``sinkhorn_log`` and ours go to
the same tolerance of the marginals, which POT looks at every ten updates: the row says how far each came. The plain
step has the same network, unrolled log-domain updates, as many as ours takes to its tolerance, and torch's ``logdet``
of all points' matrices at once. The quietest of rounds in which the sides take turns.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from _rows import Row, duration, report
from _timing import quietest, several
from torch import Tensor

from framework.claims import at_most
from modules.representation.manifold_clustering.encoder import TwoHeadConfig, TwoHeadEncoder
from modules.representation.manifold_clustering.module import mean_view, mlc_terms
from modules.representation.manifold_clustering.sinkhorn import SinkhornConfig, balance

EPS, ETA, TOLERANCE = 0.2, 0.2, 1e-5


def unit(n: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(n, d, dtype=dtype), dim=1)


def plain_terms(z: Tensor, c: Tensor, updates: int) -> Tensor:
    """R_c - R of views (A, n, d) by operations of torch."""
    _, n, d = z.shape
    mean = mean_view(z)
    matrices = []
    for view in c:
        logits = view @ view.T / ETA
        f = -0.5 * logits.logsumexp(1)
        for _ in range(updates):
            f = 0.5 * (f - (logits + f).logsumexp(1))
        matrices.append((logits + f[:, None] + f).exp())
    gamma = torch.stack(matrices).mean(0)
    eye = torch.eye(d)
    whole = torch.logdet(eye + d / (n * EPS) * mean.T @ mean)
    scaled = gamma.T[:, :, None] * mean
    return torch.logdet(eye + d / EPS * (scaled.transpose(1, 2) @ mean)).mean() - whole


class Steps:
    """Training steps of the digits' network.

    Args:
        n: Points in a batch, in two views each.
        d: Dimensions of the features.
    """

    def __init__(self, n: int, d: int) -> None:
        self.encoder = TwoHeadEncoder(8, 1, d, TwoHeadConfig())
        self.x = torch.randn(2 * n, 1, 8, 8)
        self.n = n
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), 1e-6, fused=True)
        _, c = self.features()
        self.updates = balance((c[0] @ c[0].T).detach(), ETA, TOLERANCE).iterations

    def features(self) -> tuple[Tensor, Tensor]:
        """Z and C of both views."""
        z, c = (part.view(2, self.n, -1) for part in self.encoder(self.x))
        return z, c

    def ours(self) -> None:
        """A step."""
        rate, compressed, _ = mlc_terms(*self.features(), EPS, ETA, SinkhornConfig(TOLERANCE))
        self.finish(compressed - rate)

    def plain(self) -> None:
        """The same step, written plainly."""
        self.finish(plain_terms(*self.features(), self.updates))

    def finish(self, loss: Tensor) -> None:
        """Backward and the optimiser's step."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def rows(options: argparse.Namespace) -> Iterator[Row]:
    import ot

    torch.set_num_threads(1)
    torch.manual_seed(0)
    n = 512
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-6)):
        c = unit(n, 32, dtype)
        scores = c @ c.T
        uniform = torch.full((n,), 1 / n, dtype=dtype)
        stop = tolerance / math.sqrt(n)  # POT: the norm of the marginal's error, of 1/n

        def pot(scores: Tensor = scores, uniform: Tensor = uniform, stop: float = stop) -> Tensor:
            found: Tensor = ot.bregman.sinkhorn_log(uniform, uniform, -scores, ETA, stopThr=stop, numItermax=10_000)
            return n * found

        def own(scores: Tensor = scores, tolerance: float = tolerance) -> Tensor:
            return balance(scores, ETA, tolerance).matrix

        errors = [float((m.sum(0) - 1).abs().max()) for m in (own(), pot())]
        theirs, ours = quietest([several(pot, 3), several(own, 3)], options.repeats, 1)
        what = f"Sinkhorn projection, 512 x 512, {str(dtype).removeprefix('torch.')}, marginals to {errors[0]:.0e}"
        yield Row(what, f"POT sinkhorn_log, to {errors[1]:.0e}", ours / theirs, duration(theirs / 3), at_most(1.0))
    for n, d in ((256, 32), (256, 128)):
        steps = Steps(n, d)
        plain, ours = quietest([several(steps.plain, 3), several(steps.ours, 3)], options.repeats, 1)
        what = f"a step of MLC on digits, batch {n}, d = {d}"
        yield Row(what, "the same written plainly", ours / plain, duration(plain / 3), at_most(1.1))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=9)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
