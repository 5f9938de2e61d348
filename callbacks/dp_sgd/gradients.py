"""Per-sample gradients of any module's loss, clipped and summed: by ``torch.func.vmap``, or by a loop over samples.

The loss is a function of a batch of one sample that calls the module, for example its ``training_step``. No layer is
replaced and no hook registered, so each kind of layer is differentiated as autograd does it. Opacus' hooks are wrong
for convolutions on channels_last activations, reflect padding, tied functional weights and means over unequal lengths.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from callbacks.dp_sgd.batches import has_columns, rows, size_of, tensors_of, with_tensors
from callbacks.dp_sgd.sampling import gaussian
from framework.errors import UserError

Method = Literal["vmap", "loop"]
_BROKEN = "the gradients of some samples are not finite; they count as zero, since nothing else bounds what they change"
Loss = Callable[[Any], Tensor]
"""Maps a batch of one sample to its loss, a scalar."""


class _Call(nn.Module):
    """A function of a module as a module: its parameters can then be replaced for a call."""

    def __init__(self, module: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.m = module
        self.function = function

    def forward(self, batch: Any) -> Any:
        return self.function(batch)


@contextmanager
def _tracing() -> Iterator[None]:
    """Makes transformers build attention masks without looking at their values, which vmap does not allow."""
    masks: Any = sys.modules.get("transformers.masking_utils")
    if masks is None or not hasattr(masks, "is_tracing"):
        yield
        return
    before = masks.is_tracing
    masks.is_tracing = lambda *args, **kwargs: True
    try:
        yield
    finally:
        masks.is_tracing = before


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that get gradients, by name; tied ones once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def by_vmap(module: nn.Module, loss: Loss, parameters: Mapping[str, Tensor], batch: Any) -> tuple[list[Tensor], Tensor]:
    """Returns the gradients of all samples at once.

    Args:
        module: The module that ``loss`` calls.
        loss: See :data:`Loss`.
        parameters: By which it is differentiated, by name.
        batch: The samples, B of them.

    Returns:
        The gradients in the order of ``parameters``, (B, …) each, and the losses, (B,).

    Raises:
        RuntimeError: the module does what vmap does not allow.
    """
    if has_columns(batch, size_of(batch)):
        raise RuntimeError("the batch has lists of text or numbers, which are no tensors")
    tensors, call = tensors_of(batch), _Call(module, loss)

    def of_one(values: dict[str, Tensor], *sample: Tensor) -> Tensor:
        kept = [part[None] if whole.ndim else part for part, whole in zip(sample, tensors, strict=True)]
        return functional_call(call, values, (with_tensors(batch, kept),))

    values = {f"m.{name}": parameter.detach() for name, parameter in parameters.items()}
    axes = tuple(0 if tensor.ndim else None for tensor in tensors)
    with _tracing(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # of attention: still faster than a loop
        found, losses = vmap(grad_and_value(of_one), (None, *axes), randomness="different")(values, *tensors)
    return list(found.values()), losses.detach()


def of_sample(loss: Loss, parameters: Mapping[str, Tensor], sample: Any) -> list[Tensor | None]:
    """Returns one sample's gradients by plain autograd.

    Args:
        loss: See :data:`Loss`.
        parameters: By which it is differentiated, by name.
        sample: A batch of one sample.

    Returns:
        The gradients in the order of ``parameters``; ``None`` for one that the loss does not use.
    """
    with torch.enable_grad():
        found = torch.autograd.grad(loss(sample), list(parameters.values()), allow_unused=True)
    return [None if g is None else g.to_dense() for g in found]  # a sparse one gets noise everywhere


def by_loop(loss: Loss, parameters: Mapping[str, Tensor], batch: Any) -> list[Tensor]:
    """Returns the same gradients as :func:`by_vmap`, computed one after another.

    Args:
        loss: See :data:`Loss`.
        parameters: By which it is differentiated, by name.
        batch: The samples, B of them.
    """
    size = size_of(batch)
    found = [of_sample(loss, parameters, rows(batch, i, i + 1, size)) for i in range(size)]
    return [
        torch.stack([torch.zeros_like(p) if one is None else one for one in column])
        for p, column in zip(parameters.values(), zip(*found, strict=True), strict=True)
    ]


@torch.no_grad()
def clip_and_sum(gradients: Sequence[Tensor], max_grad_norm: float | None) -> list[Tensor]:
    """Scales each sample's gradient to a norm of at most ``max_grad_norm``, over all parameters, and adds them.

    A gradient that is not finite, or whose norm is not, counts as zero, with a warning: no factor bounds it.

    Args:
        gradients: (B, …) for each parameter.
        max_grad_norm: C; ``None`` does not clip.

    Returns:
        The sum for each parameter, in float32 at least; (…, 2) of a complex one.
    """
    real = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
    flat = [g.reshape(len(g), -1).to(_summed(g.dtype)) for g in real]
    if max_grad_norm is None:
        return [f.sum(0).view(g.shape[1:]) for f, g in zip(flat, real, strict=True)]
    with torch.autocast(flat[0].device.type, enabled=False):  # which would add up in bfloat16
        norms = torch.stack([torch.linalg.vector_norm(f, dim=1) for f in flat]).norm(dim=0)
        factors = max_grad_norm / norms.clamp(min=max_grad_norm)
        broken = ~norms.isfinite()
        if bool(broken.any()):
            warnings.warn(f"dp_sgd: {_BROKEN}", stacklevel=2)
            factors = factors.masked_fill(broken, 0.0)
            flat = [f.masked_fill(broken[:, None], 0.0) for f in flat]  # 0 times infinity is NaN
        return [(factors.to(f.dtype) @ f).view(g.shape[1:]) for f, g in zip(flat, real, strict=True)]


def clipped_sums(
    module: nn.Module,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Any,
    max_grad_norm: float | None,
    method: Method = "vmap",
    physical_batch_size: int | None = None,
) -> list[Tensor]:
    """Returns the sum of the batch's clipped per-sample gradients.

    Args:
        module: The module that ``loss`` calls.
        loss: See :data:`Loss`.
        parameters: By which it is differentiated, by name.
        batch: The samples; none gives zeros.
        max_grad_norm: C; ``None`` does not clip.
        method: ``vmap``, all samples of a physical batch at once, or ``loop``, one after another.
        physical_batch_size: Number of samples whose gradients are in memory together; all by default.

    Returns:
        One tensor for each parameter, in float32 at least; (…, 2) of a complex one.
    """
    size = size_of(batch)
    total: list[Tensor] | None = None
    step = 1 if method == "loop" else physical_batch_size or max(size, 1)
    for start in range(0, size, step):
        part = rows(batch, start, start + step, size) if step < size else batch
        if method == "loop":
            one = of_sample(loss, parameters, part)
            pairs = zip(one, parameters.values(), strict=True)
            found = [(torch.zeros_like(p) if g is None else g)[None] for g, p in pairs]
        else:
            found, _ = by_vmap(module, loss, parameters, part)
        sums = clip_and_sum(found, max_grad_norm)
        if total is None:
            total = sums
        else:
            torch._foreach_add_(total, sums)
    if total is None:
        return zero_sums(parameters)
    return total


def zero_sums(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Returns the sums of no sample: zeros in the form of :func:`clip_and_sum`."""
    real = [torch.view_as_real(p.detach()) if p.is_complex() else p for p in parameters.values()]
    return [torch.zeros_like(p, dtype=_summed(p.dtype), requires_grad=False) for p in real]


@torch.no_grad()
def write_gradients(
    parameters: Mapping[str, nn.Parameter],
    sums: Sequence[Tensor],
    expected_batch_size: float,
    deviation: float,
    secret: int,
    step: int,
    add_up: Callable[[Tensor], object] = lambda flat: None,
) -> None:
    """Adds noise to clipped sums and writes them as the gradients, for any optimiser.

    A private step in a loop of one's own, whose loader draws each sample with probability q of N::

        sums = clipped_sums(net, loss, trainable(net), batch, max_grad_norm)
        write_gradients(trainable(net), sums, q * N, noise_multiplier * max_grad_norm, secret, step)
        optimizer.step()

    Args:
        parameters: By name.
        sums: One for each parameter.
        expected_batch_size: q N, by which they are divided; not the size of the batch.
        deviation: Standard deviation of the noise, σ C.
        secret: Seed of the noise; see :func:`callbacks.dp_sgd.sampling.new_secret`.
        step: Number of the step; each has its own noise.
        add_up: Adds the sums of all ranks, in place.
    """
    flat = torch.cat([part.reshape(-1) for part in sums])
    add_up(flat)
    if deviation:
        flat.add_(gaussian(secret, step, len(flat)).to(flat.device), alpha=deviation)
    flat /= expected_batch_size
    for parameter, part in zip(parameters.values(), flat.split([part.numel() for part in sums]), strict=True):
        if parameter.is_complex():
            part = torch.complex(*part.view(-1, 2).unbind(1))
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def _summed(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def per_sample_gradients(
    module: nn.Module, loss: Loss, batch: Any, method: Method | Literal["auto"] = "auto"
) -> dict[str, Tensor]:
    """Returns each sample's gradient of ``loss`` by the module's trainable parameters.

    Args:
        module: Any module.
        loss: See :data:`Loss`; for example ``lambda batch: cross_entropy(module(batch[0]), batch[1])``.
        batch: B samples: tensors (B, …) in any container.
        method: ``auto`` uses ``vmap``, and ``loop`` where the module does not allow it.

    Returns:
        (B, …) by name; tied parameters once.

    Raises:
        UserError: the batch cannot be split into samples.
    """
    parameters = trainable(module)
    if method != "loop":
        try:
            return dict(zip(parameters, by_vmap(module, loss, parameters, batch)[0], strict=True))
        except UserError:
            raise
        except Exception:
            if method == "vmap":
                raise
    return dict(zip(parameters, by_loop(loss, parameters, batch), strict=True))
