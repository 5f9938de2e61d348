"""BackSlash: shrinks weights during training so that they need fewer bits, by their own generalised Gaussian.

Paper: BackSlash: Rate Constrained Optimized Training of Large Language Models (Wu, Wen & Han, ICML 2025, arXiv
2504.16968); It Takes a Good Model to Train a Good Model (Wu et al. 2025, arXiv 2506.00486).

The objective is the loss plus λ times the rate, the code length of the weights under a generalised Gaussian of shape ν:
up to constants (1/N) Σ (|w| + ε)^ν over all N weights. Its gradient is not added to that of the loss: after each
optimiser step, with ν estimated again from the weights,

    w ← w − λ (ν/N) sign(w) (|w| + ε)^(ν−1)

without the learning rate. With ν = 1 this is the step of an L1 penalty for any ε. The authors published two versions,
λ = 1e5 with ε = 1e-5, and λ = 2e3 with ε = 1 (the default here). They differ qualitatively: with ε = 1 the last factor
is nearly 1, so all weights shrink by the same amount; with ε = 1e-5 it diverges at 0 if ν < 1, and vanishes at 0 if ν >
1, so that nothing happens for weights with ν near 2. Some epochs without shrinking follow (``stop_epoch``), as in all
the authors' experiments.

λ is meaningful only relative to N. ``per_weight_step`` = λ/N is the size of one step at ν = 1, in the weights' unit:
2e-5 is λ = 2e3 on BERT-base. Weights without a gradient end within one step around 0, with alternating signs;
``clamp_at_zero`` stops them at 0 (not in the paper).

Expected, scikit-learn's digits (MLP 64-128-128-10, AdamW 1e-3, 20 epochs with λ/N = 3e-4 and 10 without): see
``python -m framework reproduce gg_prior``.

Logs at the end of each epoch ``backslash/shape`` (ν of the chosen weights, as one sample) and ``backslash/bits`` (mean
exp-Golomb bits of a weight at step 2⁻¹³).

Chosen weights: the trainable ones, tied ones once, including norms and biases as in the authors' program; N is their
number. So with LoRA only adapters, and nothing that KappaTune froze. The step is done before an average of the weights
(``ema``) is updated. It has no state, so a resume is exact. Equal weights on all ranks stay equal.

Cost: reads the weights once for ν and writes them once, see ``benchmarks/gg_prior.py``. Limits: one device or ``ddp``;
with weights in bfloat16 or float16 (``bf16-true``) small steps are lost by rounding, unlike with mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Plan, Writer, trained_parameters
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rate import STEP, bits_per_weight
from framework.settings import above, at_least, at_most_one, one_of

Scope = Literal["global", "per_tensor"]
DEFAULT_STEP = 2e-5
"""Default λ/N: the authors' λ of 2,000 on the 1.1e8 weights of BERT-base."""

_ON_CPU, _ELSEWHERE = 1 << 16, 1 << 26  # weights processed at a time; on a CPU they fit in its cache


def _pieces(tensors: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Yields the index of each tensor with parts of it that share its memory."""
    for index, tensor in enumerate(tensors):
        if tensor.is_contiguous():
            size = _ON_CPU if tensor.device.type == "cpu" else _ELSEWHERE
            yield from ((index, part) for part in tensor.view(-1).split(size))
        else:
            yield index, tensor


def _groups(tensors: Sequence[Tensor], separate: bool) -> Iterator[tuple[int, list[Tensor]]]:
    """Yields groups of parts of one device and type that are processed together, with the index of the first tensor.

    Args:
        tensors: The weights.
        separate: Whether each group belongs to one tensor.
    """
    order = sorted(range(len(tensors)), key=lambda i: (str(tensors[i].device), str(tensors[i].dtype), i))
    kind: Any = None
    group: list[Tensor] = []
    first = held = 0
    for place, part in _pieces([tensors[i] for i in order]):
        index = order[place]
        room = _ON_CPU if part.device.type == "cpu" else _ELSEWHERE
        belongs = (part.device, part.dtype, index if separate else 0)
        if group and (belongs != kind or held + part.numel() > room):
            yield first, group
            group, held = [], 0
        if not group:
            kind, first = belongs, index
        group.append(part)
        held += part.numel()
    if group:
        yield first, group


def _flat(group: list[Tensor]) -> Tensor:
    """Returns a group as one vector of float32 or float64; a group of one shares its memory if possible."""
    flat = group[0].reshape(-1) if len(group) == 1 else torch.cat([part.reshape(-1) for part in group])
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


def _sums(groups: Sequence[tuple[int, list[Tensor]]], count: int, device: torch.device) -> Tensor:
    """Returns Σ|w| and Σw² of each tensor, float64 (2, tensors), without waiting for an accelerator."""
    parts = []
    for _, group in groups:
        flat = _flat(group)
        parts.append(torch.stack([flat.abs().sum(), flat.dot(flat)]).to(device, torch.float64))
    index = torch.tensor([first for first, _ in groups], device=device)
    return torch.zeros(2, count, dtype=torch.float64, device=device).index_add_(1, index, torch.stack(parts, 1))


def _shapes(sums: Tensor, counts: Tensor) -> Tensor:
    """Returns ν of each column of sums, from the estimator's table; 1 if all weights are 0."""
    shapes, ratios = (table.to(sums.device) for table in gg.shape_table())
    rho = counts * sums[1] / sums[0].square()
    found = shapes[(ratios - rho[:, None]).abs().argmin(1)]
    return torch.where(sums[0] > 0, found, torch.ones_like(found))


@torch.no_grad()
def estimate_shapes(tensors: Iterable[Tensor], scope: Scope = "global") -> Tensor:
    """Returns ν of all tensors as one sample, (1,), or of each, (T,); float64.

    The estimator of :func:`framework.functional.generalized_gaussian.fit`, on sums of float32 pieces: fast enough for
    every step.
    """
    kept = [tensor.detach() for tensor in tensors]
    return _estimate(kept, list(_groups(kept, scope == "per_tensor")), scope)


def _estimate(tensors: Sequence[Tensor], groups: Sequence[tuple[int, list[Tensor]]], scope: Scope) -> Tensor:
    device = tensors[0].device
    sums = _sums(groups, len(tensors), device)
    counts = torch.tensor([float(t.numel()) for t in tensors], dtype=torch.float64, device=device)
    if scope == "global":
        sums, counts = sums.sum(1, keepdim=True), counts.sum(0, keepdim=True)
    return _shapes(sums, counts)


@torch.no_grad()
def backslash_step(
    parameters: nn.Module | Iterable[Tensor],
    lam: float | None = None,
    eps: float = 1.0,
    *,
    per_weight_step: float | None = None,
    scope: Scope = "global",
    clamp_at_zero: bool = False,
    shape: float | None = None,
) -> Tensor:
    """Performs one step in place; must be called after the optimiser's step.

    Args:
        parameters: The tensors, each once, or a module for its trainable ones; N is the number of elements.
        lam: λ.
        eps: ε, above 0.
        per_weight_step: λ/N, instead of ``lam``.
        scope: ``global`` (one ν for all tensors, the paper's) or ``per_tensor``.
        clamp_at_zero: Whether a weight stops at 0 instead of crossing it.
        shape: A fixed ν instead of an estimate.

    Returns:
        The ν that was used, float64: (1,), or (T,) with ``per_tensor``.

    Raises:
        UserError: a setting is not accepted.
    """
    check_settings(lam, per_weight_step, eps, scope)
    if isinstance(parameters, nn.Module):
        parameters = [parameter for parameter in parameters.parameters() if parameter.requires_grad]
    tensors = [parameter.detach() for parameter in parameters if parameter.numel()]
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    total = sum(tensor.numel() for tensor in tensors)
    size = lam / total if lam is not None else (DEFAULT_STEP if per_weight_step is None else per_weight_step)
    groups = list(_groups(tensors, scope == "per_tensor"))
    if shape is None:
        shapes = _estimate(tensors, groups, scope)
    else:
        above(0, shape=shape)
        shapes = torch.full((1,), shape, dtype=torch.float64, device=tensors[0].device)
    # Python numbers are faster than tensors on a CPU; on an accelerator they would need a synchronisation
    known: Any = shapes.tolist() if shapes.device.type == "cpu" else shapes.float()
    for first, group in groups:
        _pull(group, known[first if len(known) > 1 else 0], size, eps, clamp_at_zero)
    return shapes


def _pull(group: list[Tensor], nu: Any, size: float, eps: float, clamp: bool) -> None:
    """Computes w −= size · ν · sign(w) · (|w| + ε)^(ν − 1) for each tensor of a group."""
    flat = _flat(group)
    if isinstance(nu, float) and nu == 1:
        pull = torch.full_like(flat, size)
    else:  # exp and log together are faster than pow
        pull = flat.abs().add_(eps).log_().mul_(nu - 1).exp_().mul_(size * nu)
    if clamp:
        torch.minimum(pull, flat.abs(), out=pull)
    pull.mul_(flat.sign())
    if flat.dtype != group[0].dtype:
        pull = (flat - pull).to(group[0].dtype)
    parts = [part.view_as(old) for part, old in zip(pull.split([p.numel() for p in group]), group, strict=True)]
    if flat.dtype != group[0].dtype:
        torch._foreach_copy_(group, parts)
    else:
        torch._foreach_sub_(group, parts)


def check_settings(lam: float | None, per_weight_step: float | None, eps: float, scope: Scope) -> None:
    """Checks the settings.

    Args:
        lam: λ, or ``None``.
        per_weight_step: λ/N, or ``None``.
        eps: ε.
        scope: ``global`` or ``per_tensor``.

    Raises:
        UserError: λ and λ/N are both given, one is not a number from 0, ε is not above 0, or the scope is not known.
    """
    at_most_one(lam=lam, per_weight_step=per_weight_step)
    at_least(0, lam=lam, per_weight_step=per_weight_step)
    above(0, eps=eps)
    one_of(get_args(Scope), scope=scope)


class BackSlash(Writer):
    """Shrinks the trainable weights after each optimiser step so that they need fewer bits.

    Args:
        lam: λ.
        per_weight_step: λ/N instead of λ; 2e-5 if neither is given.
        eps: ε, above 0; 1 and 1e-5 are the authors' two versions.
        every_n_steps: Number of optimiser steps between two shrinking steps.
        stop_epoch: The first epoch without shrinking; ``None`` for no end.
        clamp_at_zero: Whether a weight stops at 0 instead of crossing it.
        scope: ``global`` (one ν for all weights, the paper's) or ``per_tensor``.
        include: Patterns of parameter names (``*`` and ``?`` as in a shell); all for ``None``.
        exclude: Patterns of parameter names to leave out.
        bits_step: Distance between two levels, for the logged bits.

    Raises:
        UserError: a setting is not accepted (in the constructor); nothing is trained, a pattern names nothing, or the
            strategy shards the weights (before training).
    """

    technique = "backslash"
    phase = "update"

    def __init__(
        self,
        lam: float | None = None,
        per_weight_step: float | None = None,
        eps: float = 1.0,
        every_n_steps: int = 1,
        stop_epoch: int | None = None,
        clamp_at_zero: bool = False,
        scope: Scope = "global",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        bits_step: float = STEP,
    ) -> None:
        check_settings(lam, per_weight_step, eps, scope)
        above(0, bits_step=bits_step)
        at_least(1, every_n_steps=every_n_steps)
        at_least(0, stop_epoch=stop_epoch)
        self.lam, self.per_weight_step, self.eps = lam, per_weight_step, eps
        self.every_n_steps, self.stop_epoch = every_n_steps, stop_epoch
        self.clamp_at_zero, self.scope, self.bits_step = clamp_at_zero, scope, bits_step
        self.include, self.exclude = include, exclude
        self._chosen: list[nn.Parameter] = []
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the weights and the first step."""
        self._step = trainer.global_step
        self._choose(pl_module)

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Finds the weights of the edited model."""
        self._choose(pl_module)

    def _choose(self, module: nn.Module) -> None:
        self._chosen = trained_parameters(module, self.include, self.exclude, f"techniques.{self.name}")

    def _pulled(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._chosen if parameter.requires_grad]  # it may be frozen meanwhile

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Performs a step, if the optimiser stepped with this batch."""
        before, self._step = self._step, trainer.global_step
        if self._step // self.every_n_steps == before // self.every_n_steps:
            return
        if self.stop_epoch is not None and trainer.current_epoch >= self.stop_epoch:
            return
        backslash_step(
            self._pulled(),
            self.lam,
            self.eps,
            per_weight_step=self.per_weight_step,
            scope=self.scope,
            clamp_at_zero=self.clamp_at_zero,
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the shape and the bits of the chosen weights."""
        weights = self._pulled()
        if not weights:
            return
        sums = gg.moments(weights)
        shape = bits = math.nan  # logged by a run that diverged
        if math.isfinite(sums.square):
            shape, bits = gg.fit(sums).shape, bits_per_weight(weights, self.bits_step).eg
        pl_module.log("backslash/shape", shape, rank_zero_only=True)
        pl_module.log("backslash/bits", bits, rank_zero_only=True)
