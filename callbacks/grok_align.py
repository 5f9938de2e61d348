"""GrokAlign: adds the norm of the Jacobian by the input to the training loss, so that generalisation comes earlier.

Paper: GrokAlign: Geometric Characterisation and Acceleration of Grokking (Walker, Humayun, Balestriero & Baraniuk 2025,
arXiv 2506.12284).

The objective is the loss plus ``weight`` times the mean over the samples of

    R(x) = sqrt(max(C/n Σ_i |J_xᵀ v_i|², 1e-8)),  v_i = u/|u|, u ~ N(0, I_C)

with J_x the derivative of the C outputs by the input, and n = ``projections``. The paper writes |J_x|_F; this is what
its authors' program computes. C/n Σ |Jᵀ v|² is an unbiased estimate of |J|_F² (Hoffman et al. 2019, arXiv 1908.02729),
but its root is smaller than |J|_F on average. ``power: 2`` adds the squares, ``exact: true`` |J|_F from C gradients.
With ``level`` the term is |level − mean R|, which can also keep a network from generalising.

Works on any module with automatic optimisation that calls its network once in ``training_step``; all outputs of a
sample count. Where ``training_step`` calls a part of the module instead, name it: ``net: backbone``. For tokens the
input is what their embedding gives: ``embed: net.embed``. Projections are drawn from a generator of their own, on the
CPU. In mixed precision the norms are summed in float32; the term is part of the loss before its scaling and
accumulation. Batch norm in training mode couples the samples of a batch.

**The term pulls towards a constant function.** λ = 1, which suits the paper's XOR net, makes a narrower one constant.
Every 50 batches the mean centroid norm |μ|, μ = Jᵀ1, of a batch is measured, logged as ``grok_align/centroid_norm`` at
the end of the epoch, and reported once if it is below a twentieth of the start while the metric ``monitor`` is near
chance. Logs what is added as ``train/grok_align``.

Expected: see ``python -m framework reproduce grok_align``. Keep weight decay on beside it, as the authors do, and tune
both: on 512 digits a tuned weight decay alone is faster than the penalty beside the authors' default of it, and as fast
as with the penalty added.

Cost: a step takes two to three times as long, see ``benchmarks/grok_align.py``. Limits: one device or ``ddp``; no
compiled network, no kernel without a second derivative: each is refused by name.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from framework.editing import Captured, Penalty
from framework.functional.jacobian import check_grok_align, collapsed, grok_align
from framework.settings import one_of

EVERY = 50  # batches between two measurements of the centroid's norm


class GrokAlign(Penalty):
    """Adds the norm of the Jacobian by the input to the training loss.

    Args:
        weight: λ, factor of the term in the loss, 0 or more.
        power: 1 for the norm (the authors' program), 2 for its square.
        projections: n, random projections of each sample; one backward pass each.
        exact: Whether the norm is exact, at one backward pass for each output.
        level: Target of the mean norm: the term is its distance from it. By default the norm itself.
        monitor: Logged accuracy, from 0 to 1, that tells a collapsed network from one with small derivatives.
        net: Name of the network, a submodule that ``training_step`` calls once; by default the module itself.
        embed: Name of the submodule whose output counts as the network's input: for tokens their embedding.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module uses manual optimisation or is compiled,
            or has no such submodule (before training); the network is called twice or never, or has no second
            derivative (in the first step).
    """

    technique = "grok_align"
    captures = "inputs"

    def __init__(
        self,
        weight: float = 1e-3,
        power: int = 1,
        projections: int = 1,
        exact: bool = False,
        level: float | None = None,
        monitor: str = "val/accuracy",
        net: str | None = None,
        embed: str | None = None,
    ) -> None:
        super().__init__(weight, net, embed)
        one_of((1, 2), power=power)
        check_grok_align(projections, 1, level)
        self.power, self.projections, self.exact, self.level = power, projections, exact, level
        self.monitor = monitor
        self.norm: tuple[float, float] | None = None  # mean |μ| at the start and last
        self._outputs, self._reported = 0, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts without a measurement; a checkpoint's comes after it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.norm, self._outputs, self._reported = None, 0, False

    def penalty(self, module: pl.LightningModule, batch: Any, outputs: Any, captured: Captured) -> Any:
        """See the module's docstring."""
        logits = captured.output
        assert logits is not None
        flat = logits[:, None] if logits.ndim == 1 else logits.flatten(1)
        if (self._batches - 1) % EVERY == 0:
            mu = captured.gradient(flat.float().sum()).detach()
            now = float(mu.reshape(len(mu), -1).float().norm(dim=1).mean())
            self.norm = (now if self.norm is None else self.norm[0], now)
            self._outputs = flat.shape[1]
        return grok_align(
            flat,
            lambda along: captured.gradient(flat, along),
            self.projections,
            2 if self.power == 2 else 1,
            self.exact,
            self.level,
            captured.generator,
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the centroids' norm, and warns once if the network has become constant."""
        if self.norm is None:
            return
        start, now = self.norm
        pl_module.log("grok_align/centroid_norm", now, rank_zero_only=True)
        found = trainer.callback_metrics.get(self.monitor)
        accuracy = None if found is None else float(found)
        if not self._reported and collapsed(now, start, accuracy, self._outputs):
            self._reported = True
            seen = f"{self.monitor} is {accuracy:.3g}" if accuracy is not None else f"no {self.monitor} is logged"
            rank_zero_warn(
                f"techniques.{self.name}: the network has become nearly constant: its mean centroid norm is {now:.2g}, "
                f"{start:.2g} at the start, and {seen}; a weight below {self.weight:g} is needed"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the count of batches and what was measured."""
        return {**super().state_dict(), "norm": self.norm, "reported": self._reported, "outputs": self._outputs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues both."""
        super().load_state_dict(state_dict)
        self.norm = None if state_dict["norm"] is None else (state_dict["norm"][0], state_dict["norm"][1])
        self._reported, self._outputs = state_dict["reported"], state_dict["outputs"]
