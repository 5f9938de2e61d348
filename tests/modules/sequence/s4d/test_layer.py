"""S4D: one layer in its three forms, its gradients, its parameters."""

import copy
import math
from typing import get_args

import pytest
import torch
from torch.func import functional_call

from framework.errors import UserError
from modules.sequence.s4d import SSM, S4DLayer
from modules.sequence.s4d.convolution import direct_convolution
from modules.sequence.s4d.initialisations import Init
from modules.sequence.s4d.layer import DtTransform, RealTransform, recurrent_forward


def make(h=3, n=16, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return S4DLayer(h, SSM(n, **options)).to(dtype)


def direct(layer, u, rate=1.0):
    kernels = layer.kernel(u.shape[1], rate).chunk(2 if layer.bidirectional else 1)
    y = direct_convolution(u.transpose(1, 2), *kernels)
    y = y + u.transpose(1, 2).unsqueeze(1) * layer.D[..., None]
    return y.flatten(1, 2).transpose(1, 2)


@pytest.mark.parametrize("disc", ["zoh", "bilinear", "dss"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_fft_recurrence_and_direct_sum_agree(disc, dtype, tolerance):
    layer = make(dtype=dtype, disc=disc, channels=2, dss_length=257 if disc == "dss" else None)
    u = torch.randn(2, 257, 3, dtype=dtype)
    y = layer(u)
    assert y.shape == (2, 257, 6)
    assert (y - direct(layer, u)).abs().max() < tolerance
    assert (y - recurrent_forward(layer, u)).abs().max() < tolerance


@pytest.mark.parametrize("init", get_args(Init))
@pytest.mark.parametrize("real_transform", get_args(RealTransform))
@pytest.mark.parametrize("dt_transform", get_args(DtTransform))
def test_every_parameterisation_starts_at_the_same_system(init, real_transform, dt_transform):
    reference = make(init=init, dt_min=0.01, dt_max=0.05)
    layer = make(init=init, real_transform=real_transform, dt_transform=dt_transform, dt_min=0.01, dt_max=0.05)
    for ours, expected in zip(layer.continuous(), reference.continuous(), strict=True):
        assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()
    u = torch.randn(2, 64, 3, dtype=torch.float64)
    assert (layer(u) - recurrent_forward(layer, u)).abs().max() < 1e-10


def test_an_impulse_at_the_end_does_not_reach_the_beginning():
    layer = make()
    u = torch.zeros(1, 50, 3, dtype=torch.float64)
    u[:, -1] = 1
    assert layer(u)[:, 0].abs().max() < 1e-14


def test_bidirectional_is_two_kernels_one_on_the_reversed_input():
    layer = make(bidirectional=True)
    u = torch.randn(2, 40, 3, dtype=torch.float64)
    assert (layer(u) - direct(layer, u)).abs().max() < 1e-11
    ahead, behind = layer.kernel(40)
    reversed_part = direct_convolution(u.flip(1).transpose(1, 2), behind[None])[:, 0].flip(-1)
    causal = direct_convolution(u.transpose(1, 2), ahead[None])[:, 0]
    expected = (causal + reversed_part).transpose(1, 2) + u * layer.D[0]
    assert (layer(u) - expected).abs().max() < 1e-11
    with pytest.raises(UserError, match="bidirectional"):
        layer.discrete()


@pytest.mark.parametrize("real_transform", ["exp", "none"])
@pytest.mark.parametrize("disc", ["zoh", "bilinear", "dss"])
def test_gradients(disc, real_transform):
    layer = make(2, 4, disc=disc, real_transform=real_transform, n_ssm=1 if disc == "dss" else 2)
    names, values = zip(*layer.named_parameters(), strict=True)
    u = torch.randn(1, 17, 2, dtype=torch.float64, requires_grad=True)

    def run(u, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (u,))

    assert torch.autograd.gradcheck(run, (u, *(v.detach().clone().requires_grad_() for v in values)))


def test_gradients_of_scan_and_both_directions():
    layer = make(2, 4)
    u = torch.randn(1, 9, 2, dtype=torch.float64, requires_grad=True)
    state = torch.randn(1, 2, 2, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(layer.scan, (u, state))
    both = make(2, 4, bidirectional=True, channels=2)
    assert torch.autograd.gradcheck(both, (u,))


def test_half_the_sampling_rate_with_twice_the_step_is_exact_for_held_inputs():
    layer = make()
    u = torch.randn(2, 60, 3, dtype=torch.float64)
    layer.D.data.zero_()
    fine = layer(u.repeat_interleave(2, dim=1))
    assert (fine[:, 1::2] - layer(u, rate=2.0)).abs().max() < 1e-10


@pytest.mark.parametrize("disc", ["zoh", "bilinear", "dss"])
def test_a_sequence_in_pieces_gives_the_numbers_of_the_whole(disc):
    layer = make(disc=disc, channels=2, n_ssm=1, dss_length=90 if disc == "dss" else None)
    u = torch.randn(2, 90, 3, dtype=torch.float64)
    whole, state, pieces = layer(u), None, []
    for part in u.split([1, 37, 52], dim=1):
        y, state = layer.scan(part, state)
        pieces.append(y)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-10
    system, stepped = layer.discrete(), layer.initial_state(2)
    for k in range(90):
        _, stepped = layer.step(u[:, k], stepped, system)
    assert (state - stepped).abs().max() < 1e-10


def test_no_samples_leave_the_state_as_it_was():
    layer = S4DLayer(3, SSM(d_state=8))
    _, state = layer.scan(torch.randn(2, 5, 3))
    y, after = layer.scan(torch.randn(2, 0, 3), state)
    assert y.shape == (2, 0, 3)
    assert torch.equal(after, state)
    assert not layer.scan(torch.randn(2, 0, 3))[1].any()


def test_shapes_and_starting_values():
    layer = make(64, 32, n_ssm=2, channels=3, dtype=torch.float32)
    assert layer.A_real.shape == (2, 16)
    assert layer.B.shape == (2, 16, 2)
    assert layer.C.shape == (3, 64, 16, 2)
    assert layer.D.shape == (3, 64)
    dt, modes, _, _ = layer.continuous()
    assert dt.min() >= 1e-3 * (1 - 1e-5)
    assert dt.max() <= 1e-1 * (1 + 1e-5)
    assert abs(dt.log().mean() - math.log(1e-2)) < 0.5
    assert abs(layer.C.var() - 0.5) < 0.05
    assert (modes[0] == modes[2]).all()


def test_slow_parameters_are_declared_and_b_can_be_frozen():
    options = make().parameter_options()
    assert set(options) == {"inv_dt", "A_real", "A_imag", "B"}
    assert all(o == {"max_lr": 1e-3, "weight_decay": 0.0} for o in options.values())
    frozen = make(train_B=False)
    assert "B" not in dict(frozen.named_parameters())
    assert "B" not in frozen.parameter_options()
    assert "B" in frozen.state_dict()
    frozen.load_state_dict(make().state_dict())


def test_meta_then_materialised():
    with torch.device("meta"):
        layer = S4DLayer(8, SSM(16, "legs"))
    assert layer.C.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert layer(torch.randn(1, 20, 8)).isfinite().all()


def test_copies_and_state_dict():
    layer = make(dtype=torch.float32, init="inv")
    u = torch.randn(1, 30, 3)
    assert torch.equal(copy.deepcopy(layer)(u), layer(u))
    other = S4DLayer(3, SSM(16))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(u), layer(u))


def test_low_precision_around_it_does_not_reach_the_kernel():
    layer = make(dtype=torch.float32)
    u = torch.randn(2, 300, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(u), layer(u).float())
        kernel = layer.kernel(300)
    assert kernel.dtype == torch.float32
    assert (layer(u.bfloat16()).float() - layer(u)).abs().max() < 0.05 * layer(u).abs().max()
    assert layer.to(torch.bfloat16)(u.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disc": "zho"}, "ssm.disc: 'zho'.*did you mean 'zoh'"),
        ({"init": "linear"}, "init: 'linear'.*did you mean 'lin'"),
        ({"real_transform": "expp"}, "real_transform: 'expp'.*did you mean 'exp'"),
        ({"dt_transform": "log"}, "dt_transform: 'log' is not one of exp, softplus"),
        ({"n_ssm": 2}, r"ssm.n_ssm: 2 .* divisor of 3 \(d_model\)"),
        ({"dt_min": 1.0}, r"ssm.dt_min: 1.0 .*dt_max"),
        ({"n": 5}, r"ssm.d_state: 5 .* a multiple of 2"),
        ({"channels": 0}, "ssm.channels: 0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_the_recurrent_form_of_dss_needs_a_length():
    with pytest.raises(UserError, match=r"ssm\.dss_length: None"):
        make(disc="dss").discrete()
