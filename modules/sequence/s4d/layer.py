"""The S4D layer: one diagonal SSM per channel, as a convolution, as a recurrence, or from a given state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import UserError
from framework.functional.precision import full_precision
from framework.settings import above, at_least, at_most, divides, finite, multiple_of, one_of
from modules.sequence.s4d.convolution import fft_convolution
from modules.sequence.s4d.initialisations import Init, initial_modes
from modules.sequence.s4d.kernel import Discretisation, discretise, dss_system, ssm_kernel, vandermonde

RealTransform = Literal["exp", "relu", "none"]
DtTransform = Literal["exp", "softplus"]
_RELU_FLOOR = 1e-4


class DiscreteSystem(NamedTuple):
    """A discretised layer: ``x_k = a x_{k-1} + b u_k``, ``y_k = 2 Re(Σ c x_k) + D u_k``.

    Attributes:
        a: Ā (H, M).
        b: B̄ (H, M).
        c: 2 C (K, H, M).
    """

    a: Tensor
    b: Tensor
    c: Tensor


@dataclass(frozen=True)
class SSM:
    """A channel's state space model: its size, how it starts, is discretised and stored.

    Attributes:
        d_state: N, the real state size of each channel, even; N/2 complex modes are stored.
        init: Spectrum at the start: see :func:`~modules.sequence.s4d.initialisations.initial_modes`.
        disc: ``zoh``, ``bilinear`` (eq. 6), or ``dss``, the row-softmax kernel of Gupta et al. (2022), which is
            normalised over the length of the input and so depends on it.
        real_transform: How Re A is stored: ``exp`` (Re A = -exp(p)), ``relu`` (Re A = -relu(p) - 1e-4) or ``none``
            (Re A = p, of either sign, as DSS has it).
        dt_transform: How Δ is stored: ``exp`` or ``softplus``.
        dt_min: Smallest step size at the start, in units of one sample; 1/Δ should cover 10 … L samples.
        dt_max: Largest step size at the start; Δ is log-uniform in between.
        n_ssm: Independent copies of (A, B), a divisor of the channels H; channel h uses copy ``h mod
            n_ssm``. H by default.
        channels: Kernels (C, D) for each channel; the output has ``channels`` times H features.
        bidirectional: A second kernel on the reversed input.
        train_B: Whether B is trained or frozen.
        imag_scale: Factor on Im A at the start (ablation).
        random_real: Draw ``-Re A`` from U[0, 1) (ablation).
        lr: Cap on the learning rate of Δ, A and B, which also get no weight decay.
        dss_length: For ``disc: dss`` a fixed length of the softmax; by default the length of the input. The recurrent
            forms need it.

    Raises:
        UserError: a setting is not accepted.
    """

    d_state: int = 64
    init: Init = "lin"
    disc: Discretisation = "zoh"
    real_transform: RealTransform = "exp"
    dt_transform: DtTransform = "exp"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    n_ssm: int | None = None
    channels: int = 1
    bidirectional: bool = False
    train_B: bool = True
    imag_scale: float = 1.0
    random_real: bool = False
    lr: float = 1e-3
    dss_length: int | None = None

    def __post_init__(self) -> None:
        def named(*names: str) -> dict[str, Any]:
            return {f"ssm.{name}": getattr(self, name) for name in names}

        multiple_of(2, **named("d_state"))
        one_of(get_args(Init), **named("init"))
        one_of(get_args(Discretisation), **named("disc"))
        one_of(get_args(RealTransform), **named("real_transform"))
        one_of(get_args(DtTransform), **named("dt_transform"))
        above(0, **named("dt_min"))
        at_most({"ssm.dt_max": self.dt_max}, **named("dt_min"))
        finite(**named("dt_max", "imag_scale"))
        at_least(1, **named("channels", "dss_length"))
        at_least(0, **named("lr"))


class S4DLayer(nn.Module):
    """A diagonal state space model for each of H channels: ``x' = A x + B u``, ``y = 2 Re(C x) + D u``.

    The kernel ``K(t) = 2 Re Σ_{n<N/2} C_n B_n e^{A_n t}`` represents N conjugate-symmetric modes. ``forward`` convolves
    with it by FFT; ``step`` runs the same numbers as a recurrence in O(N) per sample and channel; ``scan`` takes an
    initial state and returns the final one.

    Args:
        d_model: H, the number of channels.
        ssm: Of each channel's state space model.

    Raises:
        UserError: an argument is not accepted.
    """

    def __init__(self, d_model: int, ssm: SSM = SSM()) -> None:
        super().__init__()
        at_least(1, d_model=d_model)
        divides({"d_model": d_model}, **{"ssm.n_ssm": ssm.n_ssm})
        d_state, copies = ssm.d_state, d_model if ssm.n_ssm is None else ssm.n_ssm
        self.d_model, self.d_state, self.n_ssm, self.channels = d_model, d_state, copies, ssm.channels
        self.init, self.disc, self.bidirectional, self.dss_length = (
            ssm.init,
            ssm.disc,
            ssm.bidirectional,
            ssm.dss_length,
        )
        self.real_transform, self.dt_transform = ssm.real_transform, ssm.dt_transform
        self.dt_range = ssm.dt_min, ssm.dt_max
        self.imag_scale, self.random_real, self.ssm_lr = ssm.imag_scale, ssm.random_real, ssm.lr

        self.inv_dt = nn.Parameter(torch.empty(d_model))
        self.A_real = nn.Parameter(torch.empty(copies, d_state // 2))
        self.A_imag = nn.Parameter(torch.empty(copies, d_state // 2))
        if ssm.train_B:
            self.B = nn.Parameter(torch.empty(copies, d_state // 2, 2))
        else:
            self.register_buffer("B", torch.empty(copies, d_state // 2, 2))
        directions = 2 if ssm.bidirectional else 1
        self.C = nn.Parameter(torch.empty(ssm.channels * directions, d_model, d_state // 2, 2))
        self.D = nn.Parameter(torch.empty(ssm.channels, d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters again; the only place that writes them, so a model built on ``meta`` can be filled."""
        device = self.D.device
        low, high = (math.log(value) for value in self.dt_range)
        dt = torch.exp(torch.rand(self.d_model, dtype=torch.float64, device=device) * (high - low) + low)
        self.inv_dt.copy_(dt.log() if self.dt_transform == "exp" else dt + torch.log(-torch.expm1(-dt)))
        with torch.device(device):
            modes, weights = initial_modes(
                self.init, self.d_state, self.n_ssm, imag_scale=self.imag_scale, random_real=self.random_real
            )
        decay = -modes.real
        if self.real_transform == "exp":
            # U[0, 1) can be zero, whose logarithm no optimiser could move.
            self.A_real.copy_(decay.clamp(min=1e-6).log())
        else:
            self.A_real.copy_(decay - _RELU_FLOOR if self.real_transform == "relu" else -decay)
        self.A_imag.copy_(modes.imag)
        self.B.copy_(torch.view_as_real(weights.contiguous()))
        nn.init.normal_(self.C, std=math.sqrt(0.5))
        nn.init.normal_(self.D)

    def parameter_options(self) -> dict[str, dict[str, float]]:
        """Returns Δ, A and B learn slowly and are not decayed; everything else takes the optimiser's own settings."""
        names = [name for name in ("inv_dt", "A_real", "A_imag", "B") if isinstance(getattr(self, name), nn.Parameter)]
        return {name: {"max_lr": self.ssm_lr, "weight_decay": 0.0} for name in names}

    def continuous(self, rate: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the continuous system ``(Δ, A, B, C)`` in the shapes of :mod:`~modules.sequence.s4d.kernel`.

        Args:
            rate: Factor on Δ: 2 for an input sampled half as often as in training.
        """
        precise = [p.float() if p.dtype in (torch.float16, torch.bfloat16) else p for p in self._stored()]
        inv_dt, a_real, a_imag, b, c = precise
        dt = rate * (torch.exp(inv_dt) if self.dt_transform == "exp" else F.softplus(inv_dt))
        if self.real_transform == "exp":
            a_real = -torch.exp(a_real)
        elif self.real_transform == "relu":
            a_real = -F.relu(a_real) - _RELU_FLOOR
        repeats = self.d_model // self.n_ssm
        modes = torch.complex(a_real, a_imag).repeat(repeats, 1)
        weights = torch.view_as_complex(b.contiguous()).repeat(repeats, 1)
        return dt, modes, weights, torch.view_as_complex(c.contiguous())

    def _stored(self) -> tuple[Tensor, ...]:
        return self.inv_dt, self.A_real, self.A_imag, self.B, self.C

    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        """The kernel K̄ over ``length`` samples, (channels, H, L); twice as many channels when bidirectional."""
        dt, modes, weights, c = self.continuous(rate)
        return ssm_kernel(dt, modes, weights, c, length, self.disc, self.dss_length)

    def forward(self, u: Tensor, rate: float = 1.0) -> Tensor:
        """Convolves.

        Args:
            u: (B, L, H).
            rate: Factor on Δ: 2 for an input sampled half as often as in training.

        Returns:
            (B, L, channels·H) of u's dtype.
        """
        with full_precision(u.device):  # powers of Ā and long transforms need float32
            kernel = self.kernel(u.shape[1], rate)
            signal = u.to(kernel.dtype).transpose(1, 2)
            kernels = kernel.chunk(2) if self.bidirectional else (kernel,)
            y = fft_convolution(signal, self._with_skip(kernels[0]), *kernels[1:])
            # Contiguous: elementwise backward passes over mixed strides are several times slower.
            return y.flatten(1, 2).transpose(1, 2).to(u.dtype).contiguous()

    def _with_skip(self, kernel: Tensor) -> Tensor:
        """Returns the kernel with ``D u`` as part of its first tap, which spares several passes over the signal."""
        first = kernel[..., :1] + self.D.to(kernel.dtype).unsqueeze(-1)
        return torch.cat([first, kernel[..., 1:]], dim=-1)

    def discrete(self, rate: float = 1.0) -> DiscreteSystem:
        """Returns the system for :meth:`step`: compute it once, then step as often as the parameters stay the same.

        Raises:
            UserError: the layer is bidirectional, or DSS without a fixed length.
        """
        if self.bidirectional:
            raise UserError("bidirectional: True has no recurrent form, because it reads the future")
        dt, modes, weights, c = self.continuous(rate)
        if self.disc == "dss":
            if self.dss_length is None:
                raise UserError("ssm.dss_length: None is not accepted in the recurrent form; give the training length")
            scale, _, growing = dss_system(dt, modes, weights, c, self.dss_length)
            z = dt[:, None] * modes
            # A growing mode's weights are normalised to its last sample, where the recurrence starts from the first.
            scale = torch.where(growing, scale * torch.exp(-z * (self.dss_length - 1)), scale)
            return DiscreteSystem(torch.exp(z), torch.ones_like(z), scale)
        log_a, b = discretise(dt, modes, weights, self.disc)
        return DiscreteSystem(torch.exp(log_a), b, 2 * c)

    def initial_state(self, batch: int) -> Tensor:
        """Returns the zero state, (B, H, N/2) complex."""
        dtype = torch.complex128 if self.D.dtype == torch.float64 else torch.complex64
        return torch.zeros(batch, self.d_model, self.d_state // 2, dtype=dtype, device=self.D.device)

    def step(self, u: Tensor, state: Tensor, system: DiscreteSystem | None = None) -> tuple[Tensor, Tensor]:
        """Returns one sample of the recurrence ``x_k = Ā x_{k-1} + B̄ u_k``, ``y_k = 2 Re(C x_k) + D u_k``.

        Args:
            u: (B, H).
            state: (B, H, N/2) complex.
            system: The system from :meth:`discrete`; computed by default.

        Returns:
            Output (B, channels·H) and the next state.
        """
        a, b, c = system or self.discrete()
        with full_precision(u.device):
            signal = u.to(b.real.dtype)
            state = a * state + b * signal.unsqueeze(-1)
            y = torch.einsum("bhn,khn->bkh", state, c).real + signal.unsqueeze(1) * self.D.to(signal.dtype)
        return y.flatten(1).to(u.dtype), state

    def scan(self, u: Tensor, state: Tensor | None = None, rate: float = 1.0) -> tuple[Tensor, Tensor]:
        """:meth:`forward` from a given state: long inputs in pieces, with the same numbers as in one.

        The state adds ``2 Re Σ C Ā^{l+1} x`` to sample l. The final state is summed in blocks of about sqrt(L) samples,
        as the kernel is.

        Args:
            u: (B, L, H).
            state: (B, H, N/2) complex; zero if left out.
            rate: Factor on Δ.

        Returns:
            Output (B, L, channels·H) and the state after the last sample.
        """
        a, b, c = self.discrete(rate)
        dt, modes, _, _ = self.continuous(rate)
        log_a = discretise(dt, modes, modes, self.disc)[0]
        batch, length, _ = u.shape
        with full_precision(u.device):
            signal = u.to(b.real.dtype).transpose(1, 2)
            # Not self.kernel: DSS would be normalised by the length of the piece.
            y = fft_convolution(signal, self._with_skip(vandermonde(0.5 * c * b, log_a, length)))
            final = _final_state(signal, log_a, b)
            if state is not None:
                heads = 0.5 * c * a * state.unsqueeze(1)  # (B, K, H, M)
                y = y + vandermonde(heads.flatten(0, 1), log_a, length).unflatten(0, (batch, -1))
                final = final + torch.exp(log_a * length) * state
        return y.flatten(1, 2).transpose(1, 2).to(u.dtype), final

    def extra_repr(self) -> str:
        """Returns a description of the layer, for ``print``."""
        return f"{self.d_model}, N={self.d_state}, init={self.init}, disc={self.disc}, n_ssm={self.n_ssm}"


def _final_state(u: Tensor, log_a: Tensor, b: Tensor) -> Tensor:
    """Returns ``Σ_k Ā^{L-1-k} B̄ u_k`` as a product per channel with the powers inside a block, then a sum over blocks.

    Args:
        u: (B, H, L).
        log_a: (H, M).
        b: (H, M).

    Returns:
        (B, H, M) complex.
    """
    batch, channels, length = u.shape
    block = 2 ** round(math.log2(max(1, length)) / 2)
    blocks = -(-length // block)
    padded = F.pad(u, (blocks * block - length, 0)).view(batch, channels, blocks, block)
    lags = torch.arange(block - 1, -1, -1, device=u.device, dtype=u.dtype)
    powers = torch.exp(log_a[..., None] * lags)  # (H, M, T)
    right = torch.cat([powers.real, powers.imag], dim=1).transpose(1, 2)  # (H, T, 2M)
    left = padded.permute(1, 0, 2, 3).reshape(channels, batch * blocks, block)
    sums = torch.bmm(left, right).view(channels, batch, blocks, 2, log_a.shape[1])
    starts = torch.arange(blocks - 1, -1, -1, device=u.device, dtype=u.dtype) * block
    later = torch.exp(log_a[..., None] * starts)  # (H, M, L₁)
    return b * torch.einsum("hbjm,hmj->bhm", torch.complex(sums[:, :, :, 0], sums[:, :, :, 1]), later)


def recurrent_forward(layer: S4DLayer, u: Tensor, rate: float = 1.0) -> Tensor:
    """Returns ``layer(u)`` by stepping through the samples. For tests and for checking a trained layer.

    Args:
        layer: Not bidirectional; with DSS of a fixed length.
        u: (B, L, H).
        rate: Factor on Δ: 2 for an input sampled half as often as in training.

    Returns:
        (B, L, channels·H).
    """
    system, state = layer.discrete(rate), layer.initial_state(len(u))
    rows = []
    for k in range(u.shape[1]):
        y, state = layer.step(u[:, k], state, system)
        rows.append(y)
    return torch.stack(rows, dim=1)


__all__ = ["SSM", "DiscreteSystem", "S4DLayer", "recurrent_forward"]
