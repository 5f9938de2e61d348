"""The tangent kernel Θ(x, y) = J(x) J(y)ᵀ of any module, J the derivatives of its outputs by its parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from framework.errors import UserError


def _chosen(model: nn.Module, parameters: Collection[str] | None) -> dict[str, Tensor]:
    """Returns the parameters to differentiate by, detached.

    Raises:
        UserError: there are none, or a name does not exist.
    """
    own = dict(model.named_parameters())
    if parameters is None:
        names = [name for name, value in own.items() if value.requires_grad]
    else:
        names = list(parameters)
        missing = [name for name in names if name not in own]
        if missing:
            raise UserError(f"parameters: {', '.join(missing)} not in the model; it has {', '.join(own)}")
    if not names:
        raise UserError("parameters: none to differentiate by; all are frozen")
    return {name: own[name].detach() for name in names}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def _by_passes(outputs: Callable[[dict[str, Tensor], Tensor], Tensor], chosen: dict[str, Tensor], x: Tensor) -> Tensor:
    """Returns the derivatives (N, C, P) with one backward pass per output and point, float64."""
    rows = []
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # which has no RNN backward in eval mode
        for point in x:
            values = {name: value.clone().requires_grad_() for name, value in chosen.items()}
            passes = [torch.autograd.grad(f, [*values.values()], retain_graph=True) for f in outputs(values, point)]
            rows.append(torch.stack([torch.cat([part.flatten() for part in found]) for found in passes]))
    return torch.stack(rows).double()


def _groups(chosen: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Groups parameters for differentiation: as few groups as possible, none larger than the largest parameter."""
    most = max(value.numel() for value in chosen.values())
    groups: list[dict[str, Tensor]] = []
    for name, value in sorted(chosen.items(), key=lambda item: -item[1].numel()):
        sizes = [sum(other.numel() for other in group.values()) for group in groups]
        room = next((g for g, size in zip(groups, sizes, strict=True) if size + value.numel() <= most), None)
        if room is None:
            groups.append(room := {})
        room[name] = value
    return groups


def _jacobian(model: nn.Module, state: dict[str, Tensor], chosen: dict[str, Tensor], x: Tensor, chunk: int) -> Tensor:
    """Returns the derivatives (N, C, P) at x (N, …) by the P numbers in ``chosen``, float64."""

    def outputs(values: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(model, {**state, **values}, (point[None],))[0].flatten()

    if any(isinstance(module, nn.RNNBase) for module in model.modules()):  # vmap does not support RNNs
        return _by_passes(outputs, chosen, x)
    slopes, found, size = vmap(jacrev(outputs), in_dims=(None, 0)), None, sum(v.numel() for v in chosen.values())
    for start in range(0, len(x), chunk):
        column = 0
        for part in slopes(chosen, x[start : start + chunk]).values():
            flat = part.reshape(*part.shape[:2], -1)
            if found is None:
                found = torch.empty(len(x), flat.shape[1], size, dtype=torch.float64, device=flat.device)
            found[start : start + chunk, :, column : column + flat.shape[2]] = flat
            column += flat.shape[2]
    assert found is not None
    return found


def tangent_kernel(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    parameters: Collection[str] | None = None,
    chunk: int = 64,
    apart: bool = False,
) -> Tensor:
    """Computes the tangent kernel Θ(x, y), summed in float64.

    At any time it holds the derivatives by at most as many numbers as the largest parameter has, never the whole
    Jacobian.

    Args:
        model: Maps (N, d) to (N, …), C numbers per point; points must be independent (batch norm only in ``eval``).
        x: (N, d).
        y: (N', d); by default ``x``.
        parameters: Names; by default all trainable ones.
        chunk: Number of points that are differentiated together.
        apart: Whether the kernel has separate entries for outputs; else it is the sum over them, Σ_c Θ_cc.

    Returns:
        (N, N'), or (N, C, N', C) if apart; float64, on the CPU.

    Raises:
        UserError: there is nothing to differentiate by, or a name does not exist.
    """
    state = _state(model)
    total: Tensor | None = None
    for group in _groups(_chosen(model, parameters)):
        left = _jacobian(model, state, group, x, chunk)
        right = left if y is None else _jacobian(model, state, group, y, chunk)
        shape = (*left.shape[:2], *right.shape[:2])
        left, right = (j.flatten(0, 1) if apart else j.flatten(1) for j in (left, right))
        part = (left @ right.T).cpu()
        part = part.reshape(shape) if apart else part
        total = part if total is None else total + part
        del left, right  # free them before the next group's are made
    assert total is not None
    return total


def kernel_vector_product(
    model: nn.Module, x: Tensor, v: Tensor, y: Tensor | None = None, parameters: Collection[str] | None = None
) -> Tensor:
    """Computes Θ(x, y) v = J(x) (J(y)ᵀ v) with one vjp and one jvp, without a Jacobian or a kernel.

    Args:
        model: Maps (N, d) to (N, C).
        x: (N, d).
        v: Of the shape of the outputs at y, (N', C).
        y: (N', d); by default ``x``.
        parameters: Names; by default all trainable ones.

    Returns:
        A tensor of the shape of the outputs at x, (N, C).

    Raises:
        UserError: there is nothing to differentiate by, or a name does not exist.
    """
    state, start = _state(model), _chosen(model, parameters)

    def outputs(values: dict[str, Tensor], points: Tensor) -> Tensor:
        return functional_call(model, {**state, **values}, (points,))

    pull = vjp(lambda values: outputs(values, x if y is None else y), start)[1]
    pushed: tuple[Tensor, ...] = jvp(lambda values: outputs(values, x), (start,), (pull(v)[0],))
    return pushed[1]


def drift(kernel: Tensor, start: Tensor) -> Tensor:
    """Returns ‖Θ_t − Θ_0‖_F / ‖Θ_0‖_F (…) of kernels (…, N, N')."""
    return (kernel - start).flatten(-2).norm(dim=-1) / start.flatten(-2).norm(dim=-1)


def inflation(kernel: Tensor, start: Tensor) -> Tensor:
    """Returns ΣΘ_t / ΣΘ_0 (…) of kernels (…, N, N')."""
    return kernel.sum((-2, -1)) / start.sum((-2, -1))


def alignment(kernel: Tensor, targets: Tensor) -> Tensor:
    """Returns Σ_c y_cᵀ Θ y_c / (‖Θ‖_F ‖y‖²) (…) of kernels (…, N, N) and targets (N,) or (N, C); 1 if Θ ∝ y yᵀ."""
    y = (targets[:, None] if targets.ndim == 1 else targets).to(kernel.dtype)
    return (y * (kernel @ y)).sum((-2, -1)) / (kernel.flatten(-2).norm(dim=-1) * y.square().sum())
