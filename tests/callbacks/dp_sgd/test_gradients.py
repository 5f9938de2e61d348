"""Per-sample gradients are those of a plain loop of backward passes, for each kind of layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.dp_sgd.gradients import clip_and_sum, clipped_sums, per_sample_gradients, trainable, write_gradients
from callbacks.dp_sgd.sampling import gaussian
from framework.errors import UserError

Case = tuple[nn.Module, Callable[[Any], Tensor], Any]
B = 4


def image(*layers: nn.Module, size: int = 8, channels: int = 4) -> Case:
    net = nn.Sequential(*layers)
    x = torch.randn(B, channels, size, size)
    return net, lambda batch: (net(batch[0]) - batch[1]).square().mean(), (x, torch.randn_like(net(x)))


def sequence(net: nn.Module, *shape: int) -> Case:
    x = torch.randn(B, *shape)

    def loss(batch: Any) -> Tensor:
        found = net(batch[0])
        return (found[0] if isinstance(found, tuple) else found).square().mean()

    return net, loss, (x,)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)[0]


class Odd(nn.Module):
    """Raw parameters, 0-d and complex ones, a layer called twice, and one of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.scale = nn.Parameter(torch.randn(6)), nn.Parameter(torch.tensor(0.7))
        self.wave = nn.Parameter(torch.randn(6, dtype=torch.complex64))
        self.twice, self.two = nn.Linear(6, 6), nn.Bilinear(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x + self.raw).tanh()) * self.scale
        return self.two(x, (x * self.wave).abs())


class TiedWeight(nn.Module):
    """Words whose embedding is the output layer, in sentences of unequal lengths: a mean over all tokens."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(11, 6), nn.Embedding(5, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.functional = functional
        if functional:
            del self.out
        else:
            self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
        return F.linear(x, self.embed.weight) if self.functional else self.out(x)


def tied(functional: bool) -> Case:
    net = TiedWeight(functional)
    tokens = torch.randint(0, 11, (B, 5))
    kept = torch.arange(5) < torch.tensor([[5], [2], [3], [1]])

    def loss(batch: Any) -> Tensor:
        losses = F.cross_entropy(net(batch["tokens"]).transpose(1, 2), batch["tokens"], reduction="none")
        return (losses * batch["kept"]).sum() / batch["kept"].sum()

    return net, loss, {"tokens": tokens, "kept": kept}


def channels_last() -> Case:
    class Downsampled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.LayerNorm(4), nn.Conv2d(4, 6, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))  # as ConvNeXt does

    return image(Downsampled())


def gpt2(mask: bool) -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 12, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    net = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    tokens = torch.randint(0, 12, (B, 6))
    batch = {"tokens": tokens, "mask": (torch.arange(6) < torch.tensor([[6], [4], [5], [3]])).long()}

    def loss(batch: Any) -> Tensor:
        given = {"attention_mask": batch["mask"]} if mask else {}
        logits = net(batch["tokens"], **given).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["tokens"].flatten())

    return net, loss, batch


def convnext() -> Case:
    from timm.models.convnext import ConvNeXt

    return image(ConvNeXt(in_chans=1, num_classes=3, depths=(1, 1, 1, 1), dims=(4, 6, 8, 8)), size=32, channels=1)


def vit() -> Case:
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 8, "depth": 1}
    return image(VisionTransformer(**sizes, num_heads=2, init_values=0.1), channels=1)


def partly_frozen() -> Case:
    net, loss, batch = image(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(108, 2))
    net[0].requires_grad_(False)
    return net, loss, batch


CASES: dict[str, Callable[[], Case]] = {
    "linear on tokens": lambda: sequence(nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)), 3, 6),
    "grouped convolution": lambda: image(nn.Conv2d(4, 8, 3, groups=2, padding="same"), nn.GroupNorm(2, 8)),
    "strided convolution": lambda: image(nn.Conv2d(4, 6, 3, stride=2, dilation=2)),
    "reflect padding": lambda: image(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")),
    "transposed convolution": lambda: image(nn.ConvTranspose2d(4, 3, 2, 2)),
    "channels_last": channels_last,
    "in-place relu": lambda: image(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3)),
    "norms": lambda: sequence(
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.RMSNorm(6), nn.Linear(6, 6), nn.LayerNorm(6, bias=False)), 3, 6
    ),
    "instance norm": lambda: image(nn.Conv2d(4, 3, 3), nn.InstanceNorm2d(3, affine=True)),
    "lstm": lambda: sequence(nn.LSTM(6, 5, batch_first=True), 3, 6),
    "attention": lambda: sequence(Attention(), 3, 8),
    "encoder layer": lambda: sequence(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 3, 8),
    "raw, complex, twice, two inputs": lambda: sequence(Odd(), 6),
    "tied modules, unequal lengths": lambda: tied(False),
    "tied by a function, unequal lengths": lambda: tied(True),
    "gpt2": lambda: gpt2(False),
    "gpt2 with a mask": lambda: gpt2(True),
    "convnext": convnext,
    "vit": vit,
    "partly frozen": partly_frozen,
}  # fmt: skip


def one_by_one(net: nn.Module, loss: Callable[[Any], Tensor], batch: Any) -> dict[str, Tensor]:
    """The slow, obvious way."""
    parts = {
        key: value.split(1) for key, value in (batch if isinstance(batch, dict) else dict(enumerate(batch))).items()
    }
    found: dict[str, list[Tensor]] = {name: [] for name, p in net.named_parameters() if p.requires_grad}
    for i in range(B):
        net.zero_grad()
        loss({key: value[i] for key, value in parts.items()}).backward()
        for name in found:
            gradient = net.get_parameter(name).grad
            found[name].append(torch.zeros_like(net.get_parameter(name)) if gradient is None else gradient.clone())
    net.zero_grad()
    return {name: torch.stack(values) for name, values in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_backward_passes(name):
    torch.manual_seed(0)
    net, loss, batch = CASES[name]()
    expected = one_by_one(net, loss, batch)
    assert any(value.abs().max() > 1e-5 for value in expected.values())
    for method in ("vmap", "loop"):
        found = per_sample_gradients(net, loss, batch, method)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(
                found[key], expected[key], atol=1e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
            )
    assert all(p.grad is None for p in net.parameters())


def test_lora():
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Conv1d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(20, 3))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0", "1", "3"], init_lora_weights=False), net)
    tokens = torch.randint(0, 7, (B, 3))
    loss = lambda batch: net(batch[0]).square().mean()  # noqa: E731
    expected = one_by_one(net, loss, (tokens,))
    assert len(expected) == 6
    found = per_sample_gradients(net, loss, (tokens,), "vmap")
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-4)
        assert expected[key].any(), key


class Refusing(torch.autograd.Function):
    """Without ``setup_context``, which vmap needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * given


def test_a_loop_where_vmap_refuses():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    loss = lambda batch: Refusing.apply(net(batch[0])).mean()  # noqa: E731
    batch = (torch.randn(B, 3),)
    with pytest.raises(RuntimeError):
        per_sample_gradients(net, loss, batch, "vmap")
    found, expected = per_sample_gradients(net, loss, batch), one_by_one(net, loss, batch)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_sparse_gradients_become_dense():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    batch = (torch.randint(0, 9, (B, 2)),)
    loss = lambda given: net(given[0]).square().mean()  # noqa: E731
    found = per_sample_gradients(net, loss, batch, "loop")
    net[0].sparse = False
    for key, value in one_by_one(net, loss, batch).items():
        torch.testing.assert_close(found[key], value)


def test_a_parameter_without_use_has_zeros():
    net = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    loss = lambda batch: net["used"](batch[0]).mean()  # noqa: E731
    for method in ("vmap", "loop"):
        found = per_sample_gradients(net, loss, (torch.randn(B, 3),), method)
        assert not found["unused.weight"].any()
        assert found["unused.weight"].shape == (B, 2, 3)


@pytest.mark.parametrize("norm", [0.01, 0.5, 100.0])
def test_clipped_norms_are_at_most_c(norm):
    torch.manual_seed(0)
    gradients = [torch.randn(B, 3, 2) * torch.tensor([1e-3, 1.0, 30.0, 0.0])[:, None, None], torch.randn(B)]
    gradients[1][3] = 0.0
    expected = [torch.zeros(3, 2), torch.zeros(())]
    for i in range(B):
        total = (sum(g[i].square().sum() for g in gradients) ** 0.5).item()
        one = clip_and_sum([g[i : i + 1] for g in gradients], norm)
        length = sum(part.square().sum() for part in one) ** 0.5
        assert length <= norm * (1 + 1e-6)
        factor = min(1.0, norm / total) if total else 1.0
        for left, g in zip(expected, gradients, strict=True):
            left += factor * g[i]
    for found, wanted in zip(clip_and_sum(gradients, norm), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_a_sample_without_a_finite_norm_changes_nothing(bad):
    """Else one sample could make all weights NaN, whatever C is."""
    torch.manual_seed(0)
    gradients = [torch.randn(B, 3, 2), torch.randn(B)]
    expected = clip_and_sum([torch.cat([g[:1], g[2:]]) for g in gradients], 0.5)
    gradients[0][1, 0, 1] = bad
    with pytest.warns(UserWarning, match="not finite; they count as zero"):
        found = clip_and_sum(gradients, 0.5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_does_not_round_the_sums():
    gradients = [torch.randn(B, 300), torch.randn(B)]
    expected = clip_and_sum(gradients, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        found = clip_and_sum(gradients, 0.5)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_complex_parameters():
    """Real and imaginary parts count in the norm, and both get noise."""
    torch.manual_seed(0)
    net = nn.ParameterDict({"real": torch.randn(3), "wave": torch.randn(4000, dtype=torch.complex64)})
    loss = lambda batch: (batch[0] * net["real"]).sum() + (batch[1] @ net["wave"]).abs().sum()  # noqa: E731
    batch = (torch.randn(B, 3), torch.randn(B, 4000, dtype=torch.complex64))
    expected = one_by_one(net, loss, batch)
    lengths = sum(g.abs().square().flatten(1).sum(1) for g in expected.values()).sqrt()
    sums = clipped_sums(net, loss, trainable(net), batch, 0.1)
    write_gradients(trainable(net), sums, 1.0, 0.0, 9, 3)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, torch.tensordot((0.1 / lengths).to(p.dtype), expected[name], 1))
    write_gradients(
        trainable(net), clipped_sums(net, loss, trainable(net), (batch[0][:0], batch[1][:0]), 0.1), 1.0, 2.0, 9, 3
    )
    noise = torch.view_as_real(net["wave"].grad)
    assert noise.std(0) == pytest.approx(torch.full((2,), 2.0), rel=0.05)


@pytest.mark.parametrize("method", ["vmap", "loop"])
@pytest.mark.parametrize("physical", [None, 1, 3, 9])
def test_physical_batches_add_up(method, physical):
    torch.manual_seed(0)
    net, loss, batch = CASES["in-place relu"]()
    expected = clip_and_sum(list(one_by_one(net, loss, batch).values()), 0.1)
    found = clipped_sums(net, loss, trainable(net), batch, 0.1, method, physical)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_no_sample_sums_to_zeros():
    net, loss, batch = CASES["linear on tokens"]()
    found = clipped_sums(net, loss, trainable(net), (batch[0][:0],), 1.0)
    assert [f.shape for f in found] == [p.shape for p in net.parameters()]
    assert not any(f.any() for f in found)


def test_the_same_step_as_opacus():
    """Where its hooks are right: one step without noise, and with the noise that it drew."""
    from opacus import GradSampleModule, optimizers

    torch.manual_seed(0)
    net, _, batch = CASES["grouped convolution"]()
    theirs = GradSampleModule(copy.deepcopy(net))
    optimizer = optimizers.DPOptimizer(
        torch.optim.SGD(theirs.parameters(), 0.1), noise_multiplier=0.0, max_grad_norm=0.05, expected_batch_size=B
    )
    # a loss per sample, meaned: that their hooks scale by B is theirs
    (theirs(batch[0]) - batch[1]).square().flatten(1).mean(1).mean().backward()
    optimizer.pre_step()
    loss = lambda given: (net(given[0]) - given[1]).square().mean()  # noqa: E731
    mine = clipped_sums(net, loss, trainable(net), batch, 0.05)
    for one, parameter in zip(mine, theirs.parameters(), strict=True):
        torch.testing.assert_close(one / B, parameter.grad, atol=1e-7, rtol=1e-4)


def test_written_gradients():
    """Of the definition; in a loop of one's own."""
    net, loss, batch = CASES["linear on tokens"]()
    sums = clipped_sums(net, loss, trainable(net), batch, 0.1)
    write_gradients(trainable(net), sums, 10.0, 0.5, 9, 3)
    noise = gaussian(9, 3, sum(p.numel() for p in net.parameters()))
    expected = (torch.cat([part.flatten() for part in sums]) + 0.5 * noise) / 10
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in net.parameters()]), expected)


def test_a_batch_without_samples_is_refused():
    net = nn.Linear(2, 2)
    loss = lambda batch: net(batch[0]).mean()  # noqa: E731
    with pytest.raises(UserError, match="cannot be split into samples"):
        per_sample_gradients(net, loss, (torch.randn(3, 2), torch.randn(4)))
    with pytest.raises(UserError, match="str without tensors"):
        per_sample_gradients(net, loss, "text")
