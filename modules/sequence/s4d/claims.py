"""What the S4D paper says, and what follows from it, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from framework.claims import Claim, Reproduction, at_least, at_most, close_to
from modules.sequence.s4d.convolution import direct_convolution
from modules.sequence.s4d.initialisations import Init, hippo_legs, initial_modes, legs_frequencies, legs_modes
from modules.sequence.s4d.kernel import Discretisation, discretise, ssm_kernel
from modules.sequence.s4d.layer import SSM, S4DLayer, recurrent_forward
from modules.sequence.s4d.memory import memory_r2
from modules.sequence.s4d.plots import memory_figure, training_figure

# Reference values of the frozen-memory task: R² at delays of 16, 128 and 256 samples, drive of 20,000 samples.
MEMORY: dict[str, tuple[Init, float, tuple[float, float, float]]] = {
    "S4D-Lin": ("lin", 1.0, (0.989, 0.847, 0.843)),
    "S4D-Inv": ("inv", 1.0, (0.995, 0.909, 0.909)),
    "S4D-LegS": ("legs", 1.0, (0.994, 0.905, 0.903)),
    "S4D-Real": ("real", 1.0, (0.997, 0.453, 0.180)),
    "random imag N(0,1)": ("random_normal", 1.0, (0.776, 0.180, 0.135)),
    "Lin × 0.01": ("lin", 0.01, (0.678, 0.161, 0.113)),
    "Lin × 100": ("lin", 100.0, (0.960, 0.112, 0.044)),
}
STRUCTURED = ("S4D-Lin", "S4D-Inv", "S4D-LegS")
TRAINED = {"lin": 0.865, "inv": None, "legs": None, "random_imag": 0.799, "real": 0.416}
SEEDS = (0, 1, 2)
REDUCED = "5,000 digits of MNIST pooled 2×2 (L=196), 2 blocks, H=48, 3 epochs"


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities first, then the frozen-memory table, then the trained comparison."""
    yield from identities()
    yield from frozen_memory(run)
    yield from trained(run)


def _example(dtype: torch.dtype = torch.float64) -> tuple[S4DLayer, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = S4DLayer(3, SSM(16, "random_imag", random_real=True)).to(dtype)
        return layer, torch.randn(2, 257, 3, dtype=torch.float64).to(dtype)


@torch.no_grad()
def identities() -> Iterator[Claim]:
    """The forms of the layer, the discretisations, HiPPO-LegS and DSS."""
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        layer, u = _example(dtype)
        y = layer(u)
        direct = direct_convolution(u.transpose(1, 2), layer.kernel(257))[:, 0].transpose(1, 2) + layer.D[0] * u
        error = max(float((y - form).abs().max()) for form in (direct, recurrent_forward(layer, u)))
        name = str(dtype).removeprefix("torch.")
        yield Claim(f"FFT, recurrence and direct sum agree in {name}", "equal (eq. 7)", error, at_most(limit))

    layer, u = _example()
    dt, modes, b, c = layer.continuous()
    log_a, b_bar = discretise(dt, torch.cat([modes, modes.conj()], 1), torch.cat([b, b.conj()], 1))
    powers = torch.exp(log_a[..., None] * torch.arange(257))
    full = torch.einsum("khn,hnl->khl", torch.cat([c, c.conj()], 2) * b_bar, powers)
    error = float((full - layer.kernel(257)).abs().max())
    yield Claim("2 Re of half the modes is the kernel of all N", "equal", error, at_most(1e-12))

    a, _, p = hippo_legs(256)
    skew = a + np.outer(p, p) + 0.5 * np.eye(256)
    yield Claim("HiPPO-LegS + P Pᵀ + I/2 is skew, N=256", "0", float(np.abs(skew + skew.T).max()), at_most(1e-10))
    for n in (4, 16, 64):
        error = float(np.abs(legs_modes(n)[0].imag / legs_frequencies(n) - 1).max())
        yield Claim(f"S4D-LegS spectrum solves Σ arctan(ω/(j+½)) = (N-1-2m)π/2, N={n}", "0", error, at_most(1e-9))
    largest = float(legs_modes(64)[0].imag.max())
    yield Claim(
        "largest mode of S4D-LegS, N=64", "N²/π − π/6", largest, close_to(64**2 / math.pi - math.pi / 6, absolute=1e-3)
    )
    yield Claim("Theorem 3 as a ratio of resolvents", "X / (1 + f_N(s))", _resolvent_error(), at_most(1e-10))

    yield from _discretisation()

    dss, scaled = ssm_kernel(dt, modes, b, c, 128, "dss"), c / torch.expm1(dt[:, None] * modes * 128)
    error = float((dss - 0.5 * ssm_kernel(dt, modes, b, scaled, 128)).abs().max() / dss.abs().max())
    yield Claim("DSS is ZOH with C / (e^{ΔAL} − 1)", "equal", error, at_most(1e-6))
    change = float((ssm_kernel(dt, modes, b, c, 64, "dss") - dss[..., :64]).abs().max() / dss.abs().max())
    yield Claim("DSS kernel changes with the length it is normalised over", "> 0", change, at_least(1e-3))
    change = float((layer.kernel(64) - layer.kernel(128)[..., :64]).abs().max())
    yield Claim("S4D kernel does not depend on the length", "0", change, at_most(1e-12))


def _resolvent_error() -> float:
    worst = 0.0
    for n in (8, 32, 128):
        a, b, p = hippo_legs(n)
        for s in (0.3, 2j, 20j, 0.7 + 5j):
            diagonal = np.linalg.solve(s * np.eye(n) - a - np.outer(p, p), b / 2)
            hippo = np.linalg.solve(s * np.eye(n) - a, b)
            f = np.prod([(s - j) / (s + 1 + j) for j in range(n)])
            worst = max(worst, float(np.abs(diagonal - hippo / (1 + f)).max() / np.abs(hippo).max()))
    return worst


def _discretisation() -> Iterator[Claim]:
    modes, ones = initial_modes("lin", 8)
    c = torch.tensor([[[1.0 + 0.5j, 0.3 - 1j, -0.2j, 0.7]]], dtype=torch.complex128)

    def response(steps: int, disc: Discretisation) -> float:
        """Returns the output at t = 1 for a unit step."""
        return float(ssm_kernel(torch.tensor([1 / steps], dtype=torch.float64), modes, ones, c, steps, disc).sum())

    error = abs(response(64, "zoh") - response(512, "zoh"))
    yield Claim("ZOH step response at t=1 does not depend on Δ", "0", error, at_most(1e-10))
    exact = response(64, "zoh")
    errors = [abs(response(steps, "bilinear") - exact) for steps in (512, 1024)]
    order = math.log2(errors[0] / errors[1])
    yield Claim("order of the bilinear discretisation", "2", order, close_to(2.0, absolute=0.15))
    layer, u = _example()
    layer.D.zero_()
    fine = layer(u.repeat_interleave(2, dim=1))[:, 1::2]
    error = float((fine - layer(u, rate=2.0)).abs().max())
    yield Claim("half the sampling rate with twice Δ, input held", "equal", error, at_most(1e-10))


def frozen_memory(run: Reproduction) -> Iterator[Claim]:
    """R² of the past input from the state of frozen modes: what the initialisation alone decides."""
    delays = sorted({1, 2, 4, 8, 16, 128, 256, *np.geomspace(16, 400, 24).round().astype(int).tolist()})
    curves, references = {}, {}
    for name, (init, scale, expected) in MEMORY.items():
        draws = []
        # The random spectrum is averaged over draws; the others are deterministic.
        for seed in range(5 if init.startswith("random") else 1):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                modes, _ = initial_modes(init, 64, imag_scale=scale)
            draws.append(memory_r2(modes[0].numpy(), delays))
        curve = np.mean(draws, axis=0)
        curves[name] = curve.tolist()
        references[name] = dict(zip((16, 128, 256), expected, strict=True))
        for delay, value in references[name].items():
            at = delays.index(delay)
            yield Claim(
                f"frozen memory, {name}, d={delay}: R²",
                f"none; reference {value:.3f}",
                float(curve[at]),
                close_to(value, absolute=0.05 if len(draws) > 1 else 0.03),
                details={"draws": [float(draw[at]) for draw in draws]},
                seeds=len(draws),
            )
    at = delays.index(256)
    for name, values in curves.items():
        good = name in STRUCTURED
        yield Claim(
            f"initialisation is critical: {name} {'keeps' if good else 'loses'} 256 samples, R²",
            "high" if good else "low",
            values[at],
            at_least(0.8) if good else at_most(0.3),
        )
    run.figure("memory", memory_figure(delays, curves, references))


def trained(run: Reproduction) -> Iterator[Claim]:
    """Test accuracy from each initialisation, three seeds each, through ``fit``."""
    accuracy = {
        init: [
            run.fit("sequence/s4d_smnist", f"--model.ssm.init={init}", f"--seed_everything={seed}")["val/accuracy"]
            for seed in SEEDS
        ]
        for init in TRAINED
    }
    mean = {init: float(np.mean(values)) for init, values in accuracy.items()}
    for init in ("lin", "inv", "legs"):
        reference = TRAINED[init]
        yield Claim(
            f"trained from {init}: test accuracy, mean of 3 seeds",
            "trains well" if reference is None else f"none; reference {reference:.3f}, one seed",
            mean[init],
            at_least(0.80),
            scale=REDUCED,
            details={"seeds": accuracy[init]},
            seeds=len(SEEDS),
        )
    yield Claim(
        "trained: S4D-Lin above S4D-Real, mean of 3 seeds",
        "none; reference 0.449, one seed",
        mean["lin"] - mean["real"],
        at_least(0.25),
        scale=REDUCED,
        details={"lin": accuracy["lin"], "real": accuracy["real"]},
        seeds=len(SEEDS),
    )
    yield Claim(
        "trained: S4D-Lin above random imaginary parts, mean of 3 seeds",
        "none; reference 0.066, one seed",
        mean["lin"] - mean["random_imag"],
        at_least(0.02),
        scale=REDUCED,
        details={"random_imag": accuracy["random_imag"]},
        seeds=len(SEEDS),
    )
    run.figure("training", training_figure(accuracy, {k: v for k, v in TRAINED.items() if v is not None}))
