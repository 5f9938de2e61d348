"""The interpreter against the network itself, ``torch.func.jacrev``, SciPy and dense linear algebra."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jacrev
from torch.utils._python_dispatch import TorchDispatchMode

from framework.errors import UserError
from framework.functional.linear_scope import LinearInterpreter, Standardised, affine_parts, contributions
from framework.functional.linear_scope.calls import Call, Step


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and ``eval`` mode, with random running statistics, scales and shifts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if getattr(module, "affine", False):
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator))
    return net.double().eval()


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return randomised(
        nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(), nn.Linear(8, 5),
        )
    )  # fmt: skip


def images(count: int = 1, channels: int = 1, side: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed)).double()


def jacobian(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(outputs, inputs) of one image."""
    return jacrev(lambda z: net(z[None])[0])(x[0]).reshape(-1, x[0].numel())


def test_check_1_it_is_exact_and_the_network_is_unchanged():
    net, x = classifier(), images(3)
    before = net(x)
    with LinearInterpreter(net, x) as scope:
        assert torch.equal(scope.y, before)
        assert scope.error.max() <= 1e-10 * before.abs().max()
        torch.testing.assert_close(scope(x), before, rtol=1e-10, atol=1e-12)
        assert torch.equal(net(x), before)
    assert torch.equal(net(x), before)


def test_check_1_the_output_of_a_float32_network_has_its_bits():
    net, x = classifier().float(), images(2).float()
    with LinearInterpreter(net, x, dtype=torch.float32) as scope:
        assert torch.equal(scope.y, net(x))
    with LinearInterpreter(net, x) as scope:
        assert torch.equal(scope.y, copy.deepcopy(net).double()(x.double()))
    assert next(net.parameters()).dtype == torch.float32


def test_check_2_it_is_affine_in_the_probe():
    net, x = classifier(), images(2)
    z1, z2 = images(2, seed=2), images(2, seed=3)
    with LinearInterpreter(net, x) as scope:
        r = scope.residual()
        mixed = scope(0.7 * z1 - 1.9 * z2) - r
        torch.testing.assert_close(mixed, 0.7 * (scope(z1) - r) - 1.9 * (scope(z2) - r), rtol=1e-9, atol=1e-12)
        assert (scope(z1) - net(z1)).abs().max() > 1e-2


def test_check_3_columns_rows_and_jacrev_agree():
    net, x = classifier(), images(2)
    with LinearInterpreter(net, x, chunk=7) as scope:
        by_columns = scope.columns(range(64)).values.flatten(2).mT
        by_rows = scope.rows(range(5)).values.flatten(2)
        for n in range(2):
            dense = jacobian(net, x[n : n + 1])
            assert (by_columns[n] - dense).abs().max() <= 1e-9
            assert (by_rows[n] - dense).abs().max() <= 1e-9
        assert (scope.matrix().values - by_rows).abs().max() == 0


def signs(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([(net[:k](x) > 0).flatten() for k in (1, 3)])


def test_check_4_within_a_region_nothing_changes_and_across_it_F_does():
    torch.manual_seed(0)
    net = randomised(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    )
    x, direction = images(side=6), images(side=6, seed=5)
    pattern, step = signs(net, x), 1e-6
    with LinearInterpreter(net, x) as scope:
        start, r = scope.matrix().values, scope.residual()
    assert torch.equal(signs(net, x + step * direction), pattern)
    with LinearInterpreter(net, x + step * direction) as scope:
        assert (scope.matrix().values - start).abs().max() <= 1e-12
        assert (scope.residual() - r).abs().max() <= 1e-12
    while torch.equal(signs(net, x + step * direction), pattern):
        step *= 1.1
    with LinearInterpreter(net, x + step * direction) as scope:
        assert (scope.matrix().values - start).abs().max() > 1e-6


def test_check_5_without_biases_r_is_zero_and_F_does_not_depend_on_contrast():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, bias=False),
        nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(4, 3, bias=False),
    ).double()  # fmt: skip
    x = images()
    with LinearInterpreter(net, x) as scope, LinearInterpreter(net, 3.5 * x) as brighter:
        assert torch.equal(scope.residual(), torch.zeros(1, 3).double())
        torch.testing.assert_close(scope.matrix().values, brighter.matrix().values, rtol=1e-12, atol=0)


def test_check_6_adjoint_and_singular_values():
    torch.manual_seed(0)
    net = randomised(nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1), nn.Tanh()))
    x = images(side=18)  # 648 outputs and 324 inputs: more than what is decomposed whole
    u, z = torch.randn(1, 1, 2, 18, 18).double(), images(side=18, seed=8)[None]
    with LinearInterpreter(net, x) as scope:
        left, right = (u * scope.matvec(z)).sum(), (scope.rmatvec(u) * z).sum()
        assert abs(left - right) <= 1e-10 * abs(left)
        values = torch.linalg.svdvals(scope.matrix().values[0])[:8]
        from scipy.sparse.linalg import svds

        arpack = svds(scope.operator(), k=8, random_state=0)[1][::-1]
        assert abs(arpack / values.numpy() - 1).max() <= 1e-8
        basis = scope.svd(8)
        torch.testing.assert_close(basis.gains, values, rtol=1e-8, atol=0)
        sent = scope.matvec(basis.inputs[:3])[:, 0]
        torch.testing.assert_close(sent, basis.gains[:3, None, None, None] * basis.outputs[:3], rtol=1e-7, atol=1e-9)


def test_an_svd_by_products_is_that_of_the_matrix(monkeypatch):
    from framework.functional.linear_scope import interpreter

    torch.manual_seed(0)
    net, x = randomised(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())), images()
    with LinearInterpreter(net, x) as scope:
        dense = scope.svd(5)
        monkeypatch.setattr(interpreter, "_DENSE", 2)
        sparse = scope.svd(5)
    torch.testing.assert_close(sparse.gains, dense.gains, rtol=1e-8, atol=0)
    torch.testing.assert_close((sparse.inputs * dense.inputs).flatten(1).sum(1).abs(), torch.ones(5).double())


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, dilation=2)],
)
def test_check_7_max_pooling_with_ties_padding_and_overlap(pool):
    torch.manual_seed(0)
    net = nn.Sequential(pool, nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten()).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 3, (50, 1, 7, 7), generator=generator).double()  # three grey levels, so most windows tie
    with LinearInterpreter(net, x) as scope:
        found = scope.matrix().values
        assert scope.matrix().error.max() <= 1e-12
    dense = torch.func.vmap(jacrev(lambda z: net(z[None])[0]))(x).flatten(2)
    assert (found - dense).abs().max() <= 1e-12


@pytest.mark.parametrize("mode", ["linear_mean", "frozen_mean"])
@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.RMSNorm([4, 6, 6])]
)
def test_check_7_normalisations_are_exact_in_both_modes(norm, mode):
    torch.manual_seed(0)
    net = randomised(nn.Sequential(nn.Conv2d(1, 4, 3), copy.deepcopy(norm), nn.ReLU(), nn.Conv2d(4, 1, 3)))
    x = images(2)
    with LinearInterpreter(net, x, norm_mode=mode) as scope:
        whole = scope.matrix()
        assert scope.error.max() <= 1e-10
        assert whole.error.max() <= 1e-10


def test_check_7_instance_norm_removes_a_constant():
    x = images(2, channels=3)
    with LinearInterpreter(nn.InstanceNorm2d(3), x) as scope:
        shifted = scope.matvec(torch.ones(1, 3, 8, 8))
        assert shifted.abs().max() <= 1e-12
        assert scope.residual().abs().max() <= 1e-12
    with LinearInterpreter(nn.InstanceNorm2d(3), x, norm_mode="frozen_mean") as scope:
        assert scope.matvec(torch.ones(1, 3, 8, 8)).abs().max() > 0.1


@pytest.mark.parametrize(
    "unit", [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Softplus(), nn.Sigmoid(), nn.Hardswish()]
)
def test_check_8_smooth_units(unit):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(1, 3, 3), unit, nn.Flatten(), nn.Linear(48, 3)).double(), images(side=6)
    dense, found = jacobian(net, x), {}
    for mode in ("secant", "tangent", "auto"):
        with LinearInterpreter(net, x, smooth_mode=mode) as scope:
            found[mode] = scope.matrix().values[0]
            assert scope.error.max() <= 1e-10 * scope.y.abs().max()
            assert scope.matrix().error.max() <= 1e-10
    assert (found["tangent"] - dense).abs().max() <= 1e-9
    through_zero = not isinstance(unit, nn.Softplus | nn.Sigmoid)  # else there is no secant, and the tangent is used
    assert ((found["secant"] - dense).abs().max() > 1e-3) == through_zero
    assert torch.equal(found["auto"], found["secant"])


def test_relu_at_exactly_zero_has_slope_zero_as_in_torch():
    net, x = nn.Sequential(nn.ReLU(), nn.Flatten()), torch.tensor([[[[0.0, 1.0], [-1.0, 0.0]]]]).double()
    with LinearInterpreter(net, x) as scope:
        assert torch.equal(scope.matrix().values[0], torch.diag(torch.tensor([0.0, 1, 0, 0]).double()))
        assert torch.equal(scope.matrix().values[0], jacobian(net, x))


def test_a_secant_at_exactly_zero_is_the_derivative():
    x = torch.tensor([[0.0, 1.0, -2.0]]).double()
    with LinearInterpreter(nn.Tanh(), x) as scope:
        expected = torch.tensor([1.0, torch.tanh(x[0, 1]), torch.tanh(x[0, 2]) / -2])
        torch.testing.assert_close(scope.matrix().values[0], torch.diag(expected.double()))


class Larger(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x, x.flip(-1)) + 2 * torch.minimum(x, 0.5 * x.flip(-1))


def test_two_that_tie_share_as_in_torch():
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0, 3.0, 1.0]]).double()
    with LinearInterpreter(Larger(), x) as scope:
        assert torch.equal(scope.matrix().values[0], jacobian(Larger(), x))


def test_a_gated_linear_unit_keeps_its_gate():
    x = images(2)
    with LinearInterpreter(nn.GLU(), x) as scope:
        torch.testing.assert_close(scope(3 * x), 3 * F.glu(x))
        assert (scope.matrix().values.flatten(2)[:, :, 4:8] == 0).all()


def test_the_errors_that_are_returned_are_those_of_what_was_read():
    def off(call: Call) -> Step:
        return Step((0,), lambda g: 1.5 * g)

    x = torch.tensor([[1.0, 2.0, 3.0]]).double()
    with LinearInterpreter(nn.ReLU(), x, units={"aten.relu": off}, tolerance=1.0) as scope:
        assert scope.error.tolist() == scope.matrix().error.tolist() == scope.columns([0]).error.tolist() == [1.5]
        assert scope.rows([0]).error.tolist() == [0.5]
        assert scope.rows([0, 1]).error.tolist() == [1.0]


class Functional(nn.Module):
    """What hooks on modules do not see, one module that is used twice, and overwriting."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.relu, self.norm = nn.ReLU(inplace=True), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.a(x))
        before = h
        h = self.relu(h)  # overwrites `before` too
        h = self.relu(self.b(h) + before)
        h = F.relu(self.b(h)) + torch.relu(-h) + h.clamp(min=0.1).abs()
        h = F.leaky_relu(F.max_pool2d(h, 2), 0.2)
        h[:, 0] = 0.25
        h -= 0.125
        h.relu_()
        h = torch.maximum(h, 0.5 * h.flip(-1)) + F.hardtanh(h, -0.5, 0.5)
        return self.c(
            h.amax((2, 3)) + h.mean((2, 3)) + h.flatten(2).max(2).values + torch.where(h > 0.1, h, -h).sum((2, 3))
        )


class Counted(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


class ReadTwice(nn.Module):
    """A convolution with a bias and groups, whose values before the batch norm may be read too."""

    def __init__(self, twice: bool, transposed: bool = False):
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.conv, self.norm, self.twice = kind(2, 6, 3, groups=2), nn.BatchNorm2d(6), twice

    def forward(self, x):
        h = self.conv(x)
        return torch.relu(self.norm(h)) + (h if self.twice else 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_a_batch_norm_is_merged_with_a_convolution_that_nothing_else_reads(twice, transposed):
    torch.manual_seed(0)
    net, x = randomised(ReadTwice(twice, transposed)), images(channels=2)
    with LinearInterpreter(net, x) as scope:
        torch.testing.assert_close(scope.matrix().values[0], jacobian(net, x), rtol=1e-10, atol=1e-12)
        assert scope.error.max() <= 1e-12
        with Counted() as seen:
            scope(x)
    assert seen.calls["aten::mul"] == (2 if twice or transposed else 1)  # the slopes; and the norm where it stays


def test_functions_methods_in_place_and_shared_modules():
    torch.manual_seed(0)
    net, x = randomised(Functional()), images()
    before = net(x)
    with LinearInterpreter(net, x) as scope:
        assert torch.equal(scope.y, before)
        assert (scope.matrix().values[0] - jacobian(net, x)).abs().max() <= 1e-10
        assert scope.matrix().error.max() <= 1e-10


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return (h * torch.sigmoid(self.b(h.mean((2, 3), keepdim=True)))).flatten(1) / h.flatten(1).norm(
            dim=1, keepdim=True
        )


def test_gates_keep_the_values_of_the_image():
    torch.manual_seed(0)
    net, x = Gated().double(), images(2)
    with LinearInterpreter(net, x) as scope:
        assert scope.residual().abs().max() > 0
        z = images(2, seed=7)
        h = net.a(x)
        scale = torch.sigmoid(net.b(h.mean((2, 3), keepdim=True)))
        expected = (net.a(z) * scale).flatten(1) / h.flatten(1).norm(dim=1, keepdim=True)
        torch.testing.assert_close(scope(z), expected)


class Excited(nn.Module):
    """EfficientNet's squeeze and excitation of a SiLU, and ConvNeXt V2's response normalisation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(x)
        h = h * torch.sigmoid(h.mean((2, 3), keepdim=True))
        norm = h.norm(dim=(2, 3), keepdim=True)
        return torch.tanh(h) * F.hardsigmoid(h.flip(-1)) + torch.addcmul(x, h, norm / (norm.mean() + 1e-6), value=2)


def test_of_two_gates_the_surer_one_keeps_its_value():
    x, z = images(), images(seed=7)
    with LinearInterpreter(Excited(), x) as scope:
        silu = F.silu(x)
        gate = torch.sigmoid(silu.mean((2, 3), keepdim=True))
        h, sent = silu * gate, z * torch.sigmoid(x) * gate
        norm = h.norm(dim=(2, 3), keepdim=True)
        bounded = sent * torch.tanh(h) / h * F.hardsigmoid(h.flip(-1))
        torch.testing.assert_close(scope(z), bounded + z + 2 * sent * norm / (norm.mean() + 1e-6))
    with pytest.raises(UserError, match="both are gates of the same kind"), LinearInterpreter(Alike(), x):
        pass


class Alike(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sigmoid() * x.flip(-1).sigmoid()


def test_attention_keeps_its_weights():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu").double()
    net = nn.Sequential(
        nn.Conv2d(1, 8, 4, 4), nn.Flatten(2), Transposed(), Slow(block), nn.Flatten(), nn.Linear(32, 3)
    ).double()
    with LinearInterpreter(net, images(2)) as scope:
        assert scope.matrix().error.max() <= 1e-10


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mT


class Slow(nn.Module):
    """The block by its parts: PyTorch has a kernel of its own for it in ``eval`` mode."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = self.block
        h = b.norm1(x)
        x = x + b.self_attn(h, h, h, need_weights=True)[0]
        return x + b.linear2(b.activation(b.linear1(b.norm2(x))))


class Cosine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logcumsumexp(x, -1)


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.flip(-1)


class ByNumPy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_numpy(x.detach().numpy() ** 2)


class InNumPy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() ** 2)


class Bounded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(x.mean((2, 3), keepdim=True))


class Powers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 2**x


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x).abs()


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, training=True)


class Tracked(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 0 else -x


class BatchStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Cosine(), r"aten.logcumsumexp in 1 \(Cosine\) has no linear action"),
        (Squared(), r"aten.mul in 1 \(Squared\) is a product of two parts that both depend on the image"),
        (nn.Softmax(1), r"aten._softmax in 1 \(Softmax\) is a softmax that reaches the output; interpret the logits"),
        (ByNumPy(), r"Sequential computes what depends on values of a tensor \(.item\(\), .tolist\(\), NumPy"),
        (InNumPy(), r"1 \(InNumPy\) computes what depends on values of a tensor"),
        (Bounded(), r"aten.clamp in 1 \(Bounded\) depends on the image by its argument 1"),
        (Powers(), r"aten.pow in 1 \(Powers\) depends on the image by its argument 1"),
        (Spectrum(), r"aten.abs in 1 \(Spectrum\) is of complex numbers"),
        (Tracked(), r"Sequential computes what depends on values of a tensor \(.item"),
        (BatchStatistics(), r"aten._native_batch_norm_legit in 1.norm \(BatchNorm2d\) takes its statistics from all 2 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused_by_name_and_leaves_nothing_behind(part, message):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3) if not isinstance(part, BatchStatistics) else nn.Identity(), part).double()
    net.train()
    x = images(2)
    before = net(x)
    with pytest.raises(UserError, match=message), LinearInterpreter(net, x):
        pass
    assert torch.equal(net(x), before)
    assert all(
        module.training and not module._forward_hooks and not module._forward_pre_hooks for module in net.modules()
    )
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


class Detached(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tensor((x.detach() ** 2).tolist(), dtype=x.dtype)


def test_what_gives_another_output_each_time_is_refused():
    net = nn.Sequential(nn.Identity(), Random())
    message = r"Sequential computes something that is not seen .*random numbers"
    with pytest.raises(UserError, match=message), LinearInterpreter(net, images()):
        pass


def test_a_list_of_values_is_refused():
    with pytest.raises(UserError, match=r"which is not seen"), LinearInterpreter(Detached(), images()):
        pass


def test_an_exception_within_leaves_the_network_as_it_was():
    net, x = classifier().train(), images(4)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = copy.deepcopy(net)(x)
    scope = LinearInterpreter(net, x)

    def fails() -> None:
        with scope:
            scope.rows([0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert net.training
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(x), before)
    with pytest.raises(RuntimeError, match="closed"):
        scope.rows([0])


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError


def test_an_exception_of_the_network_leaves_it_as_it_was():
    net = nn.Sequential(nn.Dropout(), Broken())
    with pytest.raises(ZeroDivisionError), LinearInterpreter(net, images()):
        pass
    assert net.training
    assert net[0].training


def test_rules_of_ones_own():
    def cosine(call: Call) -> Step:
        value = call.evaluate()
        return Step((0,), lambda g: value + 0 * g)

    with LinearInterpreter(
        nn.Sequential(nn.Conv2d(1, 2, 3), Cosine()).double(), images(), units={"aten.logcumsumexp": cosine}
    ) as scope:
        assert torch.equal(scope.residual(), scope.y)


def test_an_operation_that_lies_about_being_affine_is_found():
    def wrong(call: Call) -> Step:
        return Step((0,), call.op)

    with pytest.raises(UserError, match="is not affine"):
        LinearInterpreter(nn.Tanh(), images(), units={"aten.tanh": wrong}).__enter__()

    def off(call: Call) -> Step:
        return Step((0,), lambda g: 1.001 * g)

    with pytest.raises(UserError, match=r"\|y − \(A x \+ b\)\| is"):
        LinearInterpreter(nn.ReLU(), images(), units={"aten.relu": off}).__enter__()


class Largest(TorchDispatchMode):
    """The entries of the largest tensor, and those that are held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, tuple | list) else (out,):
            if isinstance(item, torch.Tensor):
                self.most = max(self.most, item.untyped_storage().nbytes())
        return out


def test_the_peak_of_memory_does_not_depend_on_how_many_rows_are_asked_for():
    net, x = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).double(), images()
    with LinearInterpreter(net, x, chunk=8) as scope:
        seen = {}
        for kind, parts in (("rows", scope.iter_rows), ("columns", scope.iter_columns)):
            for count in (8, 64):
                with Largest() as watch:
                    total = sum(part.shape[1] for part in parts(range(count)))
                assert total == count
                seen[kind, count] = watch.most
        assert seen["rows", 8] == seen["rows", 64] > 0
        assert seen["columns", 8] == seen["columns", 64] > 0
        wide = LinearInterpreter(net, x, chunk=64)
        with wide, Largest() as watch:
            for _ in wide.iter_rows(range(64)):
                pass
        assert watch.most > 4 * seen["rows", 64]
        assert torch.equal(scope.rows(range(20)).values[:, 3:5], scope.rows([3, 4]).values)


def test_places_by_dimension_and_one_for_each_image():
    net, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).double(), images(3)
    with LinearInterpreter(net, x) as scope:
        by_place = scope.rows([(1, 2, 3), (0, 5, 5)])
        assert torch.equal(by_place.values, scope.rows([36 + 15, 35]).values)
        each = scope.rows([[51], [0], [35]])
        assert torch.equal(each.values[0, 0], by_place.values[0, 0])
        assert torch.equal(each.values[2, 0], by_place.values[2, 1])
        assert each.residual.shape == (3, 1)
        for wrong in ([72], [-1]):
            with pytest.raises(UserError, match=rf"index {wrong[0]} is not accepted; 0 to 71"):
                scope.rows(wrong)
        for wrong in ([(2, 0, 0)], [(1, -1, 0)], [(0, 0)], [(0, 0), (0, 0, 0)], 3, [0.7], [[1], [2]]):
            with pytest.raises(UserError, match="are not places"):
                scope.rows(wrong)
        none = scope.rows([])
        assert none.values.shape == (3, 0, 1, 8, 8)
        assert torch.equal(none.error, scope.error)
        assert scope.columns([]).values.shape == (3, 0, 2, 6, 6)
        with pytest.raises(UserError, match="are expected"):
            scope.matvec(torch.zeros(2, 5, 5))
        with pytest.raises(UserError, match="3 images have a matrix each"):
            scope.svd(2)


def test_bad_settings_are_refused():
    net = nn.ReLU()
    for wrong in (
        {"chunk": 0},
        {"smooth_mode": "secants"},
        {"norm_mode": "mean"},
        {"dtype": torch.bfloat16},
        {"tolerance": 0.0},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            LinearInterpreter(net, images(), **wrong)
    with pytest.raises(UserError, match=r"images .* of a floating type"):
        LinearInterpreter(net, torch.zeros(2, 1, 3, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="not one for each"), LinearInterpreter(Transposing(), images(2, side=4)):
        pass


class Transposing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).mT


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x.abs().long().clamp(max=4)).mean((1, 2, 3))


def test_a_network_that_looks_its_input_up_is_refused():
    with (
        pytest.raises(UserError, match=r"no linear path to the input.*aten\.embedding"),
        LinearInterpreter(Lookup(), images()),
    ):
        pass


class Number(nn.Module):
    """A regressor that returns (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(72, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[:, 0]


@pytest.mark.parametrize("inference", [False, True])
def test_a_number_an_image_and_inference_mode(inference):
    torch.manual_seed(0)
    net, plain = Number().double(), images(2)
    dense = [jacobian(net, plain[n : n + 1]) for n in range(2)]
    with torch.inference_mode(inference):
        x = plain + 0  # made in that mode
        with LinearInterpreter(net, x) as scope:
            assert scope.residual().shape == (2,)
            whole = scope.matrix()
            assert whole.error.max() <= 1e-12
            assert (whole.values - torch.stack(dense)).abs().max() <= 1e-12
            assert (scope.columns(range(64)).values - torch.stack(dense)[:, 0]).abs().max() <= 1e-12
            assert torch.equal(scope.rmatvec(torch.ones(1, 2))[0], scope.rows([0]).values[:, 0])
        with LinearInterpreter(net, x[:1]) as scope:
            torch.testing.assert_close(scope.svd(3).gains, dense[0].norm()[None])


def test_values_that_are_not_finite_are_named():
    net, x = classifier(), images(2)
    x[1, 0, 2, 3] = float("nan")
    with pytest.raises(UserError, match="x has 1 values that are not finite"), LinearInterpreter(net, x):
        pass
    for layer, message in ((0, r"r\(x\) has"), (-1, "the output of Sequential has 2 values that are")):
        with torch.no_grad():
            net[layer].bias[0] = float("inf")
        with pytest.raises(UserError, match=message), LinearInterpreter(net, images(2)):
            pass


def test_contributions_sum_to_the_votes_and_raw_pixels_move_mass():
    net, x = classifier(), images(2)
    with LinearInterpreter(net, x) as scope:
        maps = contributions(scope, range(5))
        torch.testing.assert_close(maps.flatten(2).sum(2) + scope.residual(), scope.y)
    raw = Standardised(net, (0.3,), (0.25,))
    pixels = raw.raw(x)
    with LinearInterpreter(raw, pixels) as folded:
        torch.testing.assert_close(folded.y, net(x))
        torch.testing.assert_close(folded.rows([2]).values, scope_rows(net, x) / 0.25)
        assert (folded.residual() - affine_parts(net, [x])[1]).abs().max() > 1e-3
    y, r, error = affine_parts(net, x.split(1))
    assert y.shape == r.shape == (2, 5)
    assert error.max() <= 1e-10


def scope_rows(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with LinearInterpreter(net, x) as scope:
        return scope.rows([2]).values


def test_input_times_gradient_of_captum_is_the_contribution_of_a_piecewise_linear_network():
    attr = pytest.importorskip("captum.attr")
    net, x = classifier(), images(2)
    plain = nn.Sequential(*(nn.ReLU() if isinstance(module, nn.ReLU) else module for module in net))
    with LinearInterpreter(net, x) as scope:
        ours = contributions(scope, [3])[:, 0]
    found = attr.InputXGradient(plain).attribute(x.clone().requires_grad_(), target=3)
    torch.testing.assert_close(ours, found.detach())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "squeezenet"])
def test_architectures_are_exact_with_random_weights(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    if name == "squeezenet":
        from torchvision.models import squeezenet1_1

        net = squeezenet1_1(weights=None, num_classes=4)
    else:
        net = timm.create_model(name, num_classes=4)
    with LinearInterpreter(net, images(1, 3, 32).float()) as scope:
        read = scope.rows(range(4))
        assert scope.error.max() <= 1e-10 * scope.y.abs().max()
        assert read.error.max() <= 1e-10 * scope.y.abs().max()
