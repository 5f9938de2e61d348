"""What is found out about a loss on the first batch: whether samples are independent, and whether vmap can be used.

The loss is computed on a few samples, one by one and together. A loss that is a mean or a sum of what each sample
contributes gives what these give; a contrastive one, one with batch statistics or with a penalty on the whole batch
does not. Nothing of it changes the run: generators and the modules' modes are as before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.dp_sgd.batches import mapped, rows, size_of
from callbacks.dp_sgd.gradients import Loss, Method, by_vmap, of_sample
from framework.data.seeding import seeded
from framework.errors import UserError

_SAMPLES = 6
_SEEDS = (1, 2)


@dataclass
class Findings:
    """What is known of a module's loss.

    Attributes:
        method: How its gradients are computed.
        why: Why by a loop, if so.
        independent: Whether the samples were found to be independent; ``None`` if it cannot be seen, because the loss
            is random in evaluation too.
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
    with _undisturbed(device):
        fixed: bool | None = None
        for evaluating in (False, True):
            with _evaluating(module, evaluating), torch.enable_grad():
                first, second = (_seeded_loss(loss, some, seed) for seed in _SEEDS)
            if first == second:
                fixed = evaluating
                break
        with _evaluating(module, bool(fixed)):
            if size > 1 and fixed is not None:
                findings.independent, findings.weighted = _independent(loss, some, size, _tolerance(parameters))
            plain = [of_sample(loss, parameters, rows(some, i, i + 1, size)) for i in range(size)]
            if refuse_unused:
                _refuse_unused(parameters, plain)
            if method == "loop":
                findings.method, findings.why = "loop", "as asked"
            else:
                findings.why = _why_not_vmap(module, loss, parameters, some, plain if fixed is not None else None)
                findings.method = "loop" if findings.why else "vmap"
    if findings.why and method == "vmap":
        raise UserError(f"gradients: 'vmap' is not accepted for {type(module).__name__}: {findings.why}; use 'auto'")
    return findings


def _tolerance(parameters: Mapping[str, Tensor]) -> float:
    coarse = any(p.dtype in (torch.bfloat16, torch.float16) for p in parameters.values())
    return 3e-2 if coarse or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda") else 1e-4


def _seeded_loss(loss: Callable[[Any], Tensor], batch: Any, seed: int = _SEEDS[0]) -> float:
    with seeded(seed):
        return float(loss(batch).detach())


def _independent(loss: Loss, batch: Any, size: int, tolerance: float) -> tuple[bool, bool]:
    """Whether a batch's loss is a mean or a sum over its samples, and whether they have weights.

    Raises:
        UserError: it is neither.
    """
    with torch.enable_grad():  # a penalty may differentiate
        alone = [_seeded_loss(loss, rows(batch, i, i + 1, size)) for i in range(size)]

        def together(*chosen: int) -> float:
            index = torch.tensor(chosen)
            return _seeded_loss(loss, _picked(batch, index, size))

        near = tolerance * (1 + max(abs(value) for value in alone))
        whole, mean = together(*range(size)), sum(alone) / size
        if abs(whole - mean) <= near:
            return True, False
        if abs(whole - sum(alone)) <= size * near:
            return True, False
        order = sorted(range(size), key=lambda i: alone[i])
        i, j, k = order[0], order[len(order) // 2], order[-1]
        if min(alone) - near <= whole <= max(alone) + near:
            if len({i, j, k}) < 3:
                return True, True
            weights = [1.0, *(_weight(alone[i], alone[other], together(i, other)) for other in (j, k))]
            total = sum(weights)
            expected = sum(w * alone[n] for w, n in zip(weights, (i, j, k), strict=True)) / total
            if min(weights) >= 0 and abs(expected - together(i, j, k)) <= 10 * near:
                return True, True
    raise UserError(
        f"dp_sgd: the loss of {size} samples is {whole:.5g}, and their own losses are {_listed(alone)}: it is neither "
        "their mean nor their sum, so that one sample changes the gradient of another (a contrastive loss, statistics or "
        "a penalty of the whole batch, mixup). Only losses in which samples are independent can be private here"
    )


def _weight(first: float, second: float, both: float) -> float:
    """The weight of the second of two, of which the first has weight 1, from their mean."""
    return (first - both) / (both - second) if both != second else float("inf")


def _picked(batch: Any, index: Tensor, size: int) -> Any:
    def part(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item[index.to(item.device)] if item.ndim else item
        return [item[i] for i in index.tolist()] if len(item) == size else item

    return mapped(batch, part)


def _listed(values: list[float]) -> str:
    shown = ", ".join(f"{value:.5g}" for value in values[:4])
    return shown + (", …" if len(values) > 4 else "")


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
            if off.numel() and not float(off.abs().max()) <= 10 * _tolerance(parameters) * (largest + 1e-12):
                return f"the gradient of {name} under vmap is not autograd's"
    return ""
