"""The dependency of a decoder's outputs on its latents: columns of its Jacobian, and sparsity penalties on it.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

For g: R^d → R^D, J(z) = ∂g/∂z is D x d. Its column j is one forward-mode derivative (JVP) along e_j, for all samples of
a batch at once; the d of them share one forward pass: by ``torch.func.vmap``, or of a perceptron by its own chain rule,
which takes half the time. The support S of g is where an entry of J
is not 0 for some z.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from framework.functional.evaluating import evaluating
from framework.functional.jacobian import sample_outputs
from framework.settings import above, at_least, at_most, one_of

Norm = Literal["l1", "group", "log"]
Decoder = nn.Module | Callable[[Tensor], Any]
ELEMENTWISE = (nn.Identity, nn.LeakyReLU, nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.ELU)
PIECES = (nn.Identity, nn.LeakyReLU, nn.ReLU)
"""Those that are linear on pieces."""
SMALLEST = 1e-12
"""Added to the mean square whose root is taken: without it the gradient at 0 is not finite."""


def jacobian_columns(decoder: Decoder, z: Tensor, columns: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """Returns columns of the Jacobian of each sample, (m, B, D), with a graph to the decoder's parameters.

    A module is in ``eval`` mode meanwhile, so that samples do not influence each other, nothing is drawn and no running
    statistic changes.

    Args:
        decoder: Maps latents (B, …) to a tensor (B, …), something with ``logits``, or a tuple that begins with it.
        z: Latents (B, …), d numbers per sample. No gradient flows through them if they are detached.
        columns: Indices (m,) of the latents' numbers; all d of them for ``None``.
        chunk: Columns that are computed at once, to save memory; all by default.
    """
    flat = z.flatten(1)
    directions = torch.eye(flat.shape[1], dtype=z.dtype, device=z.device)
    if columns is not None:
        directions = directions[columns.to(z.device)]

    def outputs(x: Tensor) -> Tensor:
        return sample_outputs(decoder(x))

    def along(direction: Tensor) -> Tensor:
        tangent = direction.expand_as(flat).reshape(z.shape)
        product: Tensor = torch.func.jvp(outputs, (z,), (tangent,))[1]
        return product

    # beside another autocast, tangents and values would have different types
    with (
        evaluating(decoder) if isinstance(decoder, nn.Module) else contextlib.nullcontext(),
        torch.autocast(z.device.type, enabled=False),
    ):
        if isinstance(decoder, nn.Module) and chunk is None and z.ndim == 2 and (layers := _perceptron(decoder)):
            return _through(layers, z, directions)
        found: Tensor = torch.func.vmap(along, randomness="same", chunk_size=chunk)(directions)
    return found


def _perceptron(decoder: nn.Module) -> list[nn.Module]:
    """Its layers, if it is nothing but linear layers and element-wise functions; otherwise none."""
    layers = [*decoder] if type(decoder) is nn.Sequential else [decoder]
    plain = all(type(layer) in (nn.Linear, *ELEMENTWISE) and not getattr(layer, "inplace", False) for layer in layers)
    changed = any(
        layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer) for layer in (decoder, *layers)
    )
    return layers if plain and not changed else []


def _through(layers: list[nn.Module], z: Tensor, directions: Tensor) -> Tensor:
    """Derivatives (m, B, D) along directions (m, d), by the chain rule of each layer."""
    bent = [number for number, layer in enumerate(layers) if not isinstance(layer, nn.Linear)]
    found, samples = directions[:, None], len(z)  # (m, 1, d): the same for all samples up to the first function
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            found = nn.functional.linear(found, layer.weight)
            z = layer(z) if bent and number < bent[-1] else z
        else:
            with forward_ad.dual_level():  # the derivative of each unit by itself
                z, slope = forward_ad.unpack_dual(layer(forward_ad.make_dual(z, torch.ones_like(z))))
            slope = slope.detach() if type(layer) in PIECES else slope  # it is constant on pieces
            found = found * slope
    return found.expand(-1, samples, -1)


def sparsity(columns: Tensor, latents: int, norm: Norm = "l1", epsilon: float = 0.1) -> Tensor:
    """Returns the penalty Ω of Jacobian columns, a scalar in float32 or wider.

    - ``l1``: mean over the batch of Σ_ij |J_ij|;
    - ``group``: Σ_ij sqrt(mean over the batch of J_ij²), which acts on an entry's support over all samples;
    - ``log``: mean over the batch of Σ_ij log(1 + |J_ij|/ε) / log(1 + 1/ε), nearer to the number of entries.

    Args:
        columns: (m, B, D), as :func:`jacobian_columns` returns them.
        latents: d; the sum over m columns is multiplied by d/m, so that over uniform draws of columns it is unbiased.
        norm: ``l1``, ``group`` or ``log``.
        epsilon: ε of ``log``.

    Raises:
        UserError: a setting is not accepted.
    """
    one_of(get_args(Norm), norm=norm)
    at_least(1, latents=latents)
    above(0, epsilon=epsilon)
    entries = columns.to(torch.promote_types(columns.dtype, torch.float32))
    if norm == "group":
        total = (entries.square().mean(1) + SMALLEST).sqrt().sum()
    elif norm == "log":
        scale = torch.log1p(torch.tensor(1 / epsilon, dtype=entries.dtype, device=entries.device))
        total = (entries.abs() / epsilon).log1p().sum() / (len(entries[0]) * scale)
    else:
        total = entries.abs().sum() / len(entries[0])
    return total * (latents / len(entries))


def dependency_sparsity(
    decoder: Decoder,
    z: Tensor,
    norm: Norm = "l1",
    columns: int | None = None,
    generator: torch.Generator | None = None,
    epsilon: float = 0.1,
) -> Tensor:
    """The penalty on the decoder's Jacobian without its weight, a scalar with a graph.

    In a loop of one's own::

        (loss + 0.05 * dependency_sparsity(decoder, z.detach())).backward()

    Args:
        decoder: Maps latents (B, …) to outputs (B, …).
        z: Latents (B, …), d numbers per sample.
        norm: ``l1``, ``group`` or ``log`` (:func:`sparsity`).
        columns: Number of columns to draw without replacement, the same for the whole batch; exact for ``None``.
        generator: A generator on the CPU for the columns; torch's own by default.
        epsilon: ε of ``log``.

    Raises:
        UserError: a setting is not accepted, or there are fewer columns.
    """
    latents = z[0].numel()
    chosen = draw_columns(latents, columns, generator)
    return sparsity(jacobian_columns(decoder, z, chosen), latents, norm, epsilon)


def draw_columns(latents: int, columns: int | None, generator: torch.Generator | None = None) -> Tensor | None:
    """Returns indices (m,) of columns drawn without replacement; ``None``, which means all, for ``None``.

    Args:
        latents: d, from which it is drawn.
        columns: m.
        generator: A generator on the CPU.

    Raises:
        UserError: m is not between 1 and d.
    """
    if columns is None:
        return None
    at_least(1, columns=columns)
    at_most({"latents": latents}, columns=columns)
    return torch.randperm(latents, generator=generator)[:columns]


def dependency_strength(decoder: Decoder, z: Tensor) -> Tensor:
    """Returns the mean over the samples of |J_ij|, (D, d), without a graph.

    Args:
        decoder: Maps latents (B, …) to outputs (B, …).
        z: Latents (B, …), d numbers per sample.
    """
    with torch.no_grad():
        return jacobian_columns(decoder, z).abs().mean(1).T
