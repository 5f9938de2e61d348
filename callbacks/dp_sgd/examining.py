"""What is found out about a loss on the first batch: whether samples are independent, and whether vmap can be used.

Samples are independent if the loss is additive: what changes if one sample is replaced does not depend on the others.
With a first and a second half of A or of B, f(A, A) + f(B, B) = f(A, B) + f(B, A); equal random numbers are drawn for
the four. It holds for a mean or a sum over samples, with dropout or noise of each sample too, and for no contrastive
loss, batch statistic, penalty of the whole batch, or mixup. A mean with weights (lengths, classes) is not additive
either: it is recognised by its losses of one, two and three samples.

Nothing of it changes the run: generators and the modules' modes are as before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.dp_sgd.batches import mapped, rows, size_of
from callbacks.dp_sgd.gradients import Loss, Method, by_vmap, of_sample
from framework.data.seeding import seeded
from framework.errors import UserError

_SAMPLES = 6
_DEPENDENT = (
    "dp_sgd: one sample's part of the loss depends on the other samples of the batch (a contrastive loss, mixup, "
    "statistics or a penalty of the whole batch), so that clipping does not bound what a sample changes. Only losses "
    "in which samples are independent can be private here"
)
_SEEDS = (1, 2)


@dataclass
class Findings:
    """What is known of a module's loss.

    Attributes:
        method: How its gradients are computed.
        why: Why by a loop, if so.
        independent: Whether samples were found to be independent; ``None`` if only one has been seen.
        weighted: Whether the batch's loss weighs its samples, which are weighed alike here.
    """

    method: Method = "vmap"
    why: str = ""
    independent: bool | None = None
    weighted: bool = False


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Restores the global generators."""
    devices = [device] if device.type == "cuda" else []
    with seeded(_SEEDS[0]), torch.random.fork_rng(devices, enabled=bool(devices)):
        try:
            yield
        finally:
            torch.clear_autocast_cache()  # which holds casts without a graph


@contextmanager
def _evaluating(module: nn.Module, wanted: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    if wanted:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def examine(
    module: nn.Module,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Any,
    method: Method | None = None,
    refuse_unused: bool = True,
) -> Findings:
    """Examines a loss on some samples of a batch.

    Args:
        module: The module that ``loss`` calls.
        loss: The loss of a batch of any number of samples.
        parameters: Those that are trained, by name.
        batch: At least one sample.
        method: ``vmap`` or ``loop`` if it is given; otherwise vmap where it works and agrees with autograd.
        refuse_unused: Whether a parameter that no sample's loss uses is an error.

    Raises:
        UserError: samples are not independent, a parameter is not used, or vmap is asked for and refused.
    """
    size = size_of(batch)
    some = rows(batch, 0, min(size, _SAMPLES), size)
    size = min(size, _SAMPLES)
    device = next(iter(parameters.values())).device
    findings = Findings()
    with _undisturbed(device), torch.enable_grad():  # a penalty may differentiate
        if not math.isfinite(_seeded_loss(loss, some)):
            raise UserError("dp_sgd: the loss of the first samples is not finite, so that nothing can be clipped")
        if size > 1:
            findings.independent = _additive(loss, some, size - size % 2, _tolerance(parameters))
        fixed = _fixed_mode(module, loss, some)
        with _evaluating(module, fixed == "evaluation"):
            if findings.independent is False:
                findings.independent = findings.weighted = fixed is not None and _weighted(
                    loss, some, size, _tolerance(parameters)
                )
            if findings.independent is False:
                raise UserError(_DEPENDENT)
            plain = [_alone(loss, parameters, rows(some, i, i + 1, size)) for i in range(size)]
            if refuse_unused:
                _refuse_unused(parameters, plain)
            if method == "loop":
                findings.method, findings.why = "loop", "as asked"
            else:
                findings.why = _why_not_vmap(module, loss, parameters, some, plain if fixed else None)
                findings.method = "loop" if findings.why else "vmap"
    if findings.why and method == "vmap":
        raise UserError(f"gradients: 'vmap' is not accepted for {type(module).__name__}: {findings.why}; use 'auto'")
    return findings


def depends_on_padding(
    module: nn.Module, loss: Loss, parameters: Mapping[str, Tensor], padded: Any, alone: Any
) -> bool:
    """Whether a sample that was padded to the length of others has another loss than alone, without dropout.

    Args:
        module: The module that ``loss`` calls.
        loss: The loss of a batch.
        parameters: Those that are trained, by name.
        padded: The sample, as a batch of one.
        alone: The same without padding.
    """
    device = next(iter(parameters.values())).device
    with _undisturbed(device), _evaluating(module, True), torch.no_grad():
        one, other = _seeded_loss(loss, padded), _seeded_loss(loss, alone)
    return abs(one - other) > 10 * _tolerance(parameters) * (1 + abs(other))


def _tolerance(parameters: Mapping[str, Tensor]) -> float:
    coarse = any(p.dtype in (torch.bfloat16, torch.float16) for p in parameters.values())
    return 3e-2 if coarse or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda") else 1e-5


def _seeded_loss(loss: Callable[[Any], Tensor], batch: Any, seed: int = _SEEDS[0]) -> float:
    with seeded(seed):
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.manual_seed(seed)
        return float(loss(batch).detach())


def _fixed_mode(module: nn.Module, loss: Loss, batch: Any) -> Literal["training", "evaluation"] | None:
    """The mode in which the loss draws no random numbers; ``None`` if it does in both."""
    for mode in ("training", "evaluation"):
        with _evaluating(module, mode == "evaluation"):
            first, second = (_seeded_loss(loss, batch, seed) for seed in _SEEDS)
        if first == second:
            return mode  # type: ignore[return-value]
    return None


def _additive(loss: Loss, batch: Any, size: int, tolerance: float) -> bool:
    """Whether what one half of a batch adds to the loss does not depend on the other half."""
    half, first = size // 2, list(range(size))
    for shift in range(1, half + 1):  # several, since classes may happen to be the same
        second = [*first[shift:], *first[:shift]]
        halves = [(a[:half], b[half:]) for a in (first, second) for b in (first, second)]
        aa, ab, ba, bb = (_seeded_loss(loss, _picked(batch, [*one, *other], size)) for one, other in halves)
        if not abs(aa + bb - ab - ba) <= tolerance * (1 + max(map(abs, (aa, ab, ba, bb)))):
            return False
    return True


def _weighted(loss: Loss, batch: Any, size: int, tolerance: float) -> bool:
    """Whether a batch's loss is a mean of its samples' losses with weights that are each sample's own."""
    alone = [_seeded_loss(loss, rows(batch, i, i + 1, size)) for i in range(size)]

    def together(*chosen: int) -> float:
        return _seeded_loss(loss, _picked(batch, list(chosen), size))

    near = 10 * tolerance * (1 + max(abs(value) for value in alone))
    if not min(alone) - near <= together(*range(size)) <= max(alone) + near:
        return False
    order = sorted(range(size), key=lambda i: alone[i])
    three = order[0], order[len(order) // 2], order[-1]
    if len(set(three)) < 3:
        return True
    i, j, k = three
    weights = [1.0, *(_weight(alone[i], alone[other], together(i, other)) for other in (j, k))]
    expected = sum(w * alone[n] for w, n in zip(weights, three, strict=True)) / sum(weights)
    return min(weights) >= 0 and abs(expected - together(*three)) <= near


def _weight(first: float, second: float, both: float) -> float:
    """The weight of the second of two, of which the first has weight 1, from their mean."""
    return (first - both) / (both - second) if both != second else float("inf")


def _picked(batch: Any, chosen: list[int], size: int) -> Any:
    index = torch.tensor(chosen)

    def part(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item[index.to(item.device)] if item.ndim else item
        return [item[i] for i in chosen] if len(item) == size else item

    return mapped(batch, part)


def _alone(loss: Loss, parameters: Mapping[str, Tensor], sample: Any) -> list[Tensor | None]:
    """One sample's gradients.

    Raises:
        UserError: the loss of one sample cannot be computed.
    """
    try:
        return of_sample(loss, parameters, sample)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"dp_sgd: training_step fails on a batch of one sample ({type(error).__name__}: {error}); without mixup or "
            "whatever else needs several, gradients can be computed per sample"
        ) from error


def _refuse_unused(parameters: Mapping[str, Tensor], plain: list[list[Tensor | None]]) -> None:
    unused = [
        n for n, column in zip(parameters, zip(*plain, strict=True), strict=True) if all(g is None for g in column)
    ]
    if unused:
        shown = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        raise UserError(
            f"dp_sgd: no gradient reaches {shown}: with noise as its whole gradient a parameter would only wander; "
            "freeze what training_step does not use (requires_grad_(False))"
        )


def _why_not_vmap(
    module: nn.Module, loss: Loss, parameters: Mapping[str, Tensor], batch: Any, plain: list[list[Tensor | None]] | None
) -> str:
    """Why vmap cannot be used: its error, or that it gives other gradients than autograd; empty if it can."""
    try:
        found, _ = by_vmap(module, loss, parameters, batch)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
    if plain is None:
        return ""
    largest = max([float(g.abs().max()) for g in itertools.chain(*plain) if g is not None and g.numel()], default=0.0)
    for name, by_samples, column in zip(parameters, found, zip(*plain, strict=True), strict=True):
        for one, other in zip(by_samples, column, strict=True):
            off = one if other is None else one - other
            if off.numel() and not float(off.abs().max()) <= 100 * _tolerance(parameters) * (largest + 1e-12):
                return f"the gradient of {name} under vmap is not autograd's"
    return ""
