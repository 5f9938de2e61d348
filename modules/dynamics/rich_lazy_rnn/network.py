"""The leaky ReLU network of E members: states, backpropagation through time, gradients.

    h_t = relu((1 − a) h_{t−1} + a (W_x x_t + W_h h_{t−1})),  h_0 = 0,  o_t = W_o h_t                       (no biases)

The ReLU is applied to the whole leaky sum. Time is the second dimension of tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """Weights of E members.

    Attributes:
        w_in: W_x (E, H, I).
        w_rec: W_h (E, H, H).
        w_out: W_o (E, K, H).
    """

    w_in: Tensor
    w_rec: Tensor
    w_out: Tensor


def states(x: Tensor, weights: Weights, leak: float = 1.0) -> Tensor:
    """h_1 … h_T (E, T, B, H) of inputs x (B, T, I).

    Args:
        x: The same for all members.
        weights: W_x, W_h, W_o.
        leak: a, above 0 to 1.
    """
    trials, times, inputs = x.shape
    drive = x.transpose(0, 1).reshape(1, times * trials, inputs) @ weights.w_in.mT
    drive = drive.unflatten(1, (times, trials))
    back = weights.w_rec.mT
    h = (leak * drive[:, 0]).relu()
    found = [h]
    for t in range(1, times):
        pre = torch.baddbmm(drive[:, t], h, back, beta=leak, alpha=leak)
        h = (pre if leak == 1 else pre + (1 - leak) * h).relu()
        found.append(h)
    return torch.stack(found, 1)


def send_back(upstream: Tensor, active: Tensor, w_rec: Tensor, leak: float = 1.0) -> Tensor:
    """Derivatives by the inputs of the ReLUs, (E, T, R, H), from the derivatives ``upstream`` by the states.

    Args:
        upstream: (E, T, R, H), through the output only.
        active: (E, T, R, H), 1 where a unit is on.
        w_rec: W_h.
        leak: a.
    """
    signal = upstream[:, -1] * active[:, -1]
    found = [signal]
    for t in reversed(range(upstream.shape[1] - 1)):
        carried = torch.baddbmm(upstream[:, t], signal, w_rec, alpha=leak)
        signal = (carried if leak == 1 else carried + (1 - leak) * signal) * active[:, t]
        found.append(signal)
    return torch.stack(found[::-1], 1)


def gradients(x: Tensor, h: Tensor, by_output: Tensor, weights: Weights, leak: float = 1.0) -> Weights:
    """Derivatives by the weights, from the derivatives ``by_output`` by the outputs.

    Args:
        x: (B, T, I).
        h: Of :func:`states`, (E, T, B, H).
        by_output: (E, T, B, K).
        weights: W_x, W_h, W_o.
        leak: a.
    """
    signals = send_back(by_output @ weights.w_out[:, None], (h > 0).to(h), weights.w_rec, leak)
    flat = signals.flatten(1, 2)
    by_in = leak * (flat.mT @ x.transpose(0, 1).reshape(1, -1, x.shape[2]))
    by_rec = leak * (signals[:, 1:].flatten(1, 2).mT @ h[:, :-1].flatten(1, 2))
    return Weights(by_in, by_rec, by_output.flatten(1, 2).mT @ h.flatten(1, 2))


def recurrent_kernel(x: Tensor, weights: Weights, leak: float = 1.0, last_only: bool = False) -> Tensor:
    """Returns K = J Jᵀ (E, N, N) without forming J, the derivatives of all outputs by W_h.

    With D_s the signal that output k at time t sends back to time s (0 for s > t),
    K[(t, k, b), (t', k', b')] = a² Σ_ss' (D_s · D'_s') (h_{s−1} · h'_{s'−1}), with b the trial: one backward pass for
    each (t, k).

    Args:
        x: (B, T, I).
        weights: W_x, W_h, W_o.
        leak: a.
        last_only: Whether only the outputs of the last time count (N = K B); otherwise N = T K B, in the order (t, k,
            b).
    """
    return torch.stack(
        [
            _kernel(x, Weights(*(w[e : e + 1] for w in weights)), leak, last_only)
            for e in range(len(weights.w_rec))  # one member at a time: the products and the results are large
        ]
    )


def _kernel(x: Tensor, weights: Weights, leak: float, last_only: bool) -> Tensor:
    h = states(x, weights, leak)
    times, trials, hidden = h.shape[1:]
    kinds = weights.w_out.shape[1]
    sent = weights.w_out[0, :, None].expand(kinds, trials, hidden).reshape(1, kinds * trials, hidden)
    active = (h > 0).to(h).repeat(1, 1, kinds, 1)
    observed = [times - 1] if last_only else list(range(times))
    signals = []  # of each observed time t, (t + 1, K B, H)
    for t in observed:
        upstream = torch.cat([h.new_zeros(1, t, kinds * trials, hidden), sent[:, None]], 1)
        signals.append(send_back(upstream, active[:, : t + 1], weights.w_rec, leak)[0])
    before, size = h[0, :-1], kinds * trials
    kernel = h.new_zeros(len(observed) * size, len(observed) * size)
    parts = []  # for each time s after the first: the rows' start and the rows; the state before the first is 0
    for s in range(1, times):
        late = [index for index, t in enumerate(observed) if t >= s]
        parts.append((late[0] * size, torch.cat([signals[index][s] for index in late])))
    for i, (first, left) in enumerate(parts):
        for j, (second, right) in enumerate(parts[i:], start=i):
            shape = (len(left) // trials, trials, len(right) // trials, trials)
            block = ((left @ right.mT).view(shape) * (before[i] @ before[j].mT)[None, :, None]).view(
                len(left), len(right)
            )
            kernel[first:, second:] += block
            if j > i:
                kernel[second:, first:] += block.mT
    return leak**2 * kernel
