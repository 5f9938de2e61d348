"""S4D: discretisation, kernels and convolutions against their plain forms and scipy."""

import math

import numpy as np
import pytest
import scipy.signal
import torch

from framework.errors import UserError
from modules.sequence.s4d.convolution import direct_convolution, fft_convolution
from modules.sequence.s4d.kernel import (
    discretise,
    expm1,
    log_bilinear,
    phi1,
    ssm_kernel,
    ssm_kernel_naive,
    vandermonde,
    vandermonde_naive,
)


def random_system(h=3, m=8, kernels=1, dtype=torch.float64, growing=False):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    real = -draw(h, m).exp()
    if growing:
        real = real * torch.where(torch.arange(m) % 3 == 0, -1.0, 1.0).to(dtype)
    dt = (0.02 + 0.1 * draw(h).abs()).to(dtype)
    return (
        dt,
        torch.complex(real, 5 * draw(h, m)),
        torch.complex(draw(h, m), draw(h, m)),
        torch.complex(draw(kernels, h, m), draw(kernels, h, m)),
    )


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 100, 257])
@pytest.mark.parametrize("kernels", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_vandermonde_equals_the_plain_sum_in_value_and_gradient(length, kernels, dtype, tolerance):
    dt, modes, _, c = random_system(kernels=kernels, dtype=dtype)
    results = []
    for product in (vandermonde, vandermonde_naive):
        a, weights = (dt[:, None] * modes).requires_grad_(), c.clone().requires_grad_()
        out = product(weights, a, length)
        out.backward(torch.cos(torch.arange(out.numel(), dtype=dtype)).view_as(out))
        results.append((out, a.grad, weights.grad))
    for fast, plain in zip(*results, strict=True):
        scale = max(1.0, plain.abs().max().item())
        assert (fast - plain).abs().max() < tolerance * scale


def test_vandermonde_in_float32_is_as_precise_as_the_plain_sum():
    modes = torch.complex(torch.full((32,), -0.5), math.pi * torch.arange(32.0)).to(torch.complex128)
    a = torch.logspace(-3, -1, 8).double()[:, None].to(torch.complex128) * modes
    a32, c32 = a.to(torch.complex64), torch.ones(1, 8, 32, dtype=torch.complex64)
    exact = vandermonde_naive(c32.to(torch.complex128), a32.to(torch.complex128), 4096)
    fast, plain = vandermonde(c32, a32, 4096), vandermonde_naive(c32, a32, 4096)
    assert (fast - exact).abs().max() < 2 * (plain - exact).abs().max() + 1e-6


def test_vandermonde_never_holds_modes_times_samples():
    import torch.utils._python_dispatch as dispatch

    largest = 0

    class Watch(dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.numel())
            return out

    h, m, length = 4, 32, 4096
    a = torch.complex(-torch.rand(h, m), torch.rand(h, m)).requires_grad_()
    with Watch():
        vandermonde(torch.ones(1, h, m, dtype=torch.complex64), a, length).sum().backward()
    assert largest <= h * length < h * m * length


@pytest.mark.parametrize("disc", ["zoh", "bilinear", "dss"])
@pytest.mark.parametrize("length", [2, 30, 128])
def test_kernels_equal_their_formulas(disc, length):
    dt, modes, b, c = random_system(kernels=2)
    fast, plain = ssm_kernel(dt, modes, b, c, length, disc), ssm_kernel_naive(dt, modes, b, c, length, disc)
    # The guard of the DSS reciprocal, 1e-7 beside |e^{ΔAL} - 1|², is visible in short kernels.
    assert (fast - plain).abs().max() < (1e-3 * plain.abs().max() if disc == "dss" else 1e-11)


def test_conjugate_form_equals_the_full_system():
    dt, modes, b, c = random_system()
    full = [torch.cat([x, x.conj()], dim=-1) for x in (modes, b, c)]
    log_a, b_bar = discretise(dt, full[0], full[1])
    times = torch.arange(257, dtype=torch.float64)
    explicit = torch.einsum("khn,hnl->khl", full[2] * b_bar, torch.exp(log_a[..., None] * times))
    assert explicit.imag.abs().max() < 1e-12
    assert (explicit.real - ssm_kernel(dt, modes, b, c, 257)).abs().max() < 1e-12


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
def test_discretisation_and_response_match_scipy(disc):
    dt, modes, b, c = random_system(h=2, m=3)
    u = np.random.default_rng(0).standard_normal(50)
    kernel = ssm_kernel(dt, modes, b, c, 50, disc)
    for h in range(2):
        # The real system of a conjugate pair: x = [Re, Im].
        a_real = scipy.linalg.block_diag(*[[[z.real, -z.imag], [z.imag, z.real]] for z in modes[h].numpy()])
        b_real = np.concatenate([[z.real, z.imag] for z in b[h].numpy()])[:, None]
        c_real = 2 * np.concatenate([[z.real, -z.imag] for z in c[0, h].numpy()])[None]
        step = float(dt[h])
        a_bar, b_bar, *_ = scipy.signal.cont2discrete((a_real, b_real, c_real, np.zeros((1, 1))), step, method=disc)
        log_a, ours = discretise(dt, modes, b, disc)
        expected = np.sort_complex(np.linalg.eigvals(a_bar))
        both = torch.cat([log_a[h].exp(), log_a[h].exp().conj()]).numpy()
        assert np.abs(np.sort_complex(both) - expected).max() < 1e-12
        assert np.abs(torch.view_as_real(ours[h]).reshape(-1).numpy() - b_bar[:, 0]).max() < 1e-12
        # Ours reads the state after the update: y_k = C (Ā x_{k-1} + B̄ u_k).
        _, y, _ = scipy.signal.dlsim((a_bar, b_bar, c_real @ a_bar, c_real @ b_bar, step), u)
        assert np.abs(y[:, 0] - np.convolve(u, kernel[0, h].numpy())[:50]).max() < 1e-11


def test_zoh_is_exact_for_a_step_and_bilinear_is_of_second_order():
    modes = torch.tensor([[-0.5 + 3j, -1.0 + 7j]], dtype=torch.complex128)
    b = torch.ones(1, 2, dtype=torch.complex128)
    c = torch.tensor([[[1.0 + 0.5j, 0.3 - 1j]]], dtype=torch.complex128)
    exact = 2 * (c[0] * (torch.exp(modes) - 1) / modes).sum().real

    def response(steps, disc):
        return ssm_kernel(torch.tensor([1 / steps], dtype=torch.float64), modes, b, c, steps, disc).sum()

    assert abs(response(64, "zoh") - response(512, "zoh")) < 1e-10
    assert abs(response(64, "zoh") - exact) < 1e-10
    errors = [abs(response(steps, "bilinear") - exact).item() for steps in (256, 512, 1024)]
    orders = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert all(abs(order - 2.0) < 0.15 for order in orders), orders


def test_small_arguments_keep_their_precision():
    z = torch.tensor([1e-6 + 1e-6j, -1e-5 + 0j, 0j, -5e-4 + 0j, -1 + 100j], dtype=torch.complex64)
    exact = torch.from_numpy(np.expm1(z.numpy().astype(np.complex128)))
    assert ((expm1(z) - exact).abs() <= 3e-7 * exact.abs()).all()
    assert phi1(z)[2] == 1
    w = z.to(torch.complex128)[[0, 1, 3, 4]]
    exact = torch.log((1 + w / 2) / (1 - w / 2))
    assert ((log_bilinear(z[[0, 1, 3, 4]]) - exact).abs() <= 1e-6 * exact.abs()).all()
    assert log_bilinear(torch.tensor([-2 + 0j])).isfinite().all()


def test_dss_is_zoh_with_normalised_weights_and_depends_on_length():
    dt, modes, b, c = random_system()
    dss = ssm_kernel(dt, modes, b, c, 128, "dss")
    scaled = c / (torch.exp(dt[:, None] * modes * 128) - 1)
    assert (dss - 0.5 * ssm_kernel(dt, modes, b, scaled, 128)).abs().max() < 1e-6
    assert (ssm_kernel(dt, modes, b, c, 64, "dss") - dss[..., :64]).abs().max() > 1e-3
    assert (ssm_kernel(dt, modes, b, c, 64) - ssm_kernel(dt, modes, b, c, 128)[..., :64]).abs().max() < 1e-12
    assert (ssm_kernel(dt, modes, b, c, 64, "dss", 128) - dss[..., :64]).abs().max() < 1e-12


def test_dss_with_growing_modes_equals_its_formula_and_does_not_overflow():
    dt, modes, b, c = random_system(growing=True)
    fast, plain = ssm_kernel(dt, modes, b, c, 100, "dss"), ssm_kernel_naive(dt, modes, b, c, 100, "dss")
    assert (fast - plain).abs().max() < 1e-5 * plain.abs().max()
    huge = ssm_kernel(dt.float(), (100 * modes).to(torch.complex64), b.cfloat(), c.cfloat(), 4096, "dss")
    assert huge.isfinite().all()


def test_an_unknown_discretisation_names_the_nearest():
    dt, modes, b, _ = random_system()
    with pytest.raises(UserError, match=r"disc: 'bilinaer'.*zoh, bilinear, dss.*did you mean 'bilinear'"):
        discretise(dt, modes, b, "bilinaer")


@pytest.mark.parametrize("length", [1, 2, 5, 64, 97, 257])
@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("two_sided", [False, True])
def test_fft_convolution_equals_the_direct_sum(length, kernels, two_sided):
    generator = torch.Generator().manual_seed(length)
    sizes = [(2, 3, length), *[(kernels, 3, length)] * (1 + two_sided)]
    results = []
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    for convolve in (fft_convolution, direct_convolution):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = convolve(*leaves)
        out.backward(torch.sin(torch.arange(out.numel(), dtype=torch.float64)).view_as(out))
        results.append([out, *(x.grad for x in leaves)])
    for fast, plain in zip(*results, strict=True):
        assert fast.shape == plain.shape
        assert (fast - plain).abs().max() < 1e-11


def test_nothing_wraps_around():
    u = torch.zeros(1, 1, 64, dtype=torch.float64)
    u[..., -1] = 1
    kernel = torch.ones(1, 1, 64, dtype=torch.float64)
    assert fft_convolution(u, kernel)[..., :-1].abs().max() < 1e-14
    assert fft_convolution(u.flip(-1), 0 * kernel, kernel)[..., 1:].abs().max() < 1e-14


def test_convolution_works_under_vmap_and_without_a_gradient():
    u, k = torch.randn(4, 2, 3, 20), torch.randn(1, 3, 20)
    batched = torch.func.vmap(fft_convolution, in_dims=(0, None))(u, k)
    assert torch.allclose(batched, torch.stack([fft_convolution(x, k) for x in u]), atol=1e-5)
