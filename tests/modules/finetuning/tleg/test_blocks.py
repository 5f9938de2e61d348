"""Expansion, its inverse and files: against layers written out one by one, and against models of timm."""

import numpy
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from framework.checkpoints.learngene_file import read_learngene, save_learngene
from framework.errors import UserError
from framework.functional.learngene import LearngeneTensors, expand, expand_into, extract_learngene, fit_line, linearity
from modules.finetuning.tleg.blocks import POOLING, LinearBlocks, expanded_logits, share_blocks

SIZES = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 24, "num_heads": 3}


def vit(depth, seed=0, **changed):
    torch.manual_seed(seed)
    return VisionTransformer(**{**SIZES, **POOLING, **changed}, depth=depth).eval()


def auxiliary(depth=4, seed=0, **changed):
    """An auxiliary network with values of its own in every tensor, norms and biases too."""
    model = share_blocks(vit(1, seed, **changed), depth).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def images():
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_the_expansion_to_the_trained_depth_computes_what_the_auxiliary_network_does(images):
    aux, plain = auxiliary(), vit(4, seed=1)
    assert not torch.allclose(plain(images), aux(images), atol=1e-2)
    assert expand_into(plain, extract_learngene(aux)) == []
    assert float((plain(images) - aux(images)).detach().abs().max()) <= 1e-5


@pytest.mark.parametrize("depth", [1, 3, 9])
def test_the_auxiliary_network_runs_at_any_depth(depth, images):
    aux, plain = auxiliary(), vit(depth, seed=1)
    expand_into(plain, extract_learngene(aux))
    torch.testing.assert_close(expanded_logits(aux, images, depth), plain(images).detach(), atol=1e-5, rtol=0)
    assert aux.blocks.depth == 4


def test_averaging_before_the_final_norm_is_another_function_and_its_norm_is_found(images):
    aux, norm_last = auxiliary(), vit(4, seed=1, fc_norm=True)
    expand_into(norm_last, extract_learngene(aux))
    assert torch.equal(norm_last.fc_norm.weight, aux.norm.weight)
    assert float((norm_last(images) - aux(images)).detach().abs().max()) > 1e-3
    back = extract_learngene(norm_last)
    assert "norm.weight" in back.shared
    assert not any(name.startswith("fc_norm") for name in back.shared)


def test_neighbours_differ_by_a_share_of_the_slope_in_every_tensor():
    learngene = extract_learngene(auxiliary())
    for depth in (2, 5):
        state = expand(learngene, depth)
        for name, base in learngene.base.items():
            assert torch.equal(state[f"blocks.0.{name}"], base)
            for i in range(depth - 1):
                step = state[f"blocks.{i + 1}.{name}"] - state[f"blocks.{i}.{name}"]
                assert float((step - learngene.slope[name] / depth).abs().max()) <= 1e-6
            written_out = base + (depth - 1) / depth * learngene.slope[name]
            torch.testing.assert_close(state[f"blocks.{depth - 1}.{name}"], written_out, atol=1e-6, rtol=0)


def test_every_second_layer_of_twice_the_depth_is_a_layer():
    learngene = extract_learngene(auxiliary())
    half, whole = expand(learngene, 3), expand(learngene, 6)
    for i in range(3):
        for name in learngene.base:
            assert torch.equal(half[f"blocks.{i}.{name}"], whole[f"blocks.{2 * i}.{name}"])


def test_without_a_slope_all_layers_are_the_base():
    own = extract_learngene(auxiliary())
    flat = LearngeneTensors(own.base, {name: torch.zeros_like(value) for name, value in own.slope.items()}, own.shared)
    for depth in (1, 5):
        state = expand(flat, depth)
        assert all(torch.equal(state[f"blocks.{i}.{n}"], base) for n, base in own.base.items() for i in range(depth))


def test_gradients_are_the_sums_over_unshared_layers(images):
    aux, copy, depth = auxiliary().double(), vit(4).double(), 4
    expand_into(copy, extract_learngene(aux))
    target = torch.arange(7) % 5
    for model in (aux, copy):
        nn.functional.cross_entropy(model(images.double()), target).backward()
    free = [dict(block.named_parameters()) for block in copy.blocks]
    for name, parameter in aux.blocks.base.named_parameters():
        expected = sum(layer[name].grad for layer in free)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-12)
        slope = sum(i / depth * layer[name].grad for i, layer in enumerate(free))
        torch.testing.assert_close(dict(aux.blocks.slope.named_parameters())[name].grad, slope, rtol=1e-5, atol=1e-12)
    for name in ("pos_embed", "head.weight", "patch_embed.proj.weight", "norm.bias"):
        torch.testing.assert_close(aux.get_parameter(name).grad, copy.get_parameter(name).grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 12])
def test_the_blocks_hold_two_blocks_numbers_at_any_depth(depth):
    blocks = auxiliary(depth).blocks
    assert sum(p.numel() for p in blocks.parameters()) == 2 * (12 * 24**2 + 13 * 24)
    learngene = extract_learngene(auxiliary(depth))
    assert learngene.parameters == sum(p.numel() for p in auxiliary(depth).parameters())
    assert learngene.parameters_at(depth) == sum(p.numel() for p in vit(depth).parameters())


def test_the_slope_starts_as_the_base_but_for_its_norms():
    torch.manual_seed(0)
    blocks = LinearBlocks(vit(1, embed_dim=96).blocks[0], 6)
    assert (blocks.base.norm1.weight == 1).all()
    for norm in (blocks.slope.norm1, blocks.slope.norm2):
        assert (norm.weight == 0).all()
        assert (norm.bias == 0).all()
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        base, slope = blocks.base.get_submodule(name), blocks.slope.get_submodule(name)
        assert (slope.bias == 0).all()
        assert float(slope.weight.detach().std()) == pytest.approx(0.02, rel=0.03)
        assert not torch.equal(base.weight, slope.weight)


def test_least_squares_finds_the_line_again():
    aux = auxiliary()
    own, noisy = extract_learngene(aux), vit(8)
    expand_into(noisy, own)
    with torch.no_grad():
        for parameter in noisy.blocks.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    found = extract_learngene(noisy)
    assert (found.depth, found.heads) == (8, 3)
    for name in own.base:
        torch.testing.assert_close(found.base[name], own.base[name], atol=1e-2, rtol=0)
        torch.testing.assert_close(found.slope[name], own.slope[name], atol=1e-2, rtol=0)
    assert min(linearity(noisy.state_dict()).values()) > 0.9
    chance = linearity(vit(6).state_dict())["attn.qkv.weight"]  # a line through six independent points
    assert chance == pytest.approx(1 / 5, abs=0.05)


def test_the_line_is_numpys(images):
    stack = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base, slope, explained = fit_line(stack)
    rows = stack.flatten(1).numpy()
    expected, residual, *_ = numpy.linalg.lstsq(numpy.stack([numpy.ones(5), numpy.arange(5) / 5], 1), rows, rcond=None)
    torch.testing.assert_close(base.flatten(), torch.from_numpy(expected[0]))
    torch.testing.assert_close(slope.flatten(), torch.from_numpy(expected[1]))
    assert explained == pytest.approx(1 - residual.sum() / ((rows - rows.mean(0)) ** 2).sum())
    assert fit_line(stack[:1].expand(4, 2, 3))[2] == 1.0
    one = fit_line(stack[:1])
    assert torch.equal(one[0], stack[0])
    assert (one[1] == 0).all()


class TestHeads:
    def test_of_other_classes_is_kept_or_insisted_on(self):
        learngene, other = extract_learngene(auxiliary()), vit(2, num_classes=9)
        before = other.head.weight.detach().clone()
        assert expand_into(nn.Sequential(other), learngene) == ["0.head.weight", "0.head.bias"]
        assert torch.equal(other.head.weight, before)
        assert torch.equal(other.pos_embed, learngene.shared["pos_embed"])
        with pytest.raises(UserError, match=r"head.weight: 5x24 in the file, 9x24 in the model"):
            expand_into(other, learngene, "strict")

    def test_of_the_same_shape_is_taken_unless_skipped(self):
        learngene, other = extract_learngene(auxiliary()), vit(2, seed=1)
        before = other.head.weight.detach().clone()
        assert expand_into(other, learngene, "skip") == ["head.weight", "head.bias"]
        assert torch.equal(other.head.weight, before)
        assert expand_into(other, learngene) == []
        assert torch.equal(other.head.weight, learngene.shared["head.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 12}, "blocks.0.norm1.weight: 24 in the file, 12 in the model"),
        ({"patch_size": 2}, "pos_embed: 1x4x24 in the file, 1x16x24 in the model"),
        ({"num_heads": 2}, "was made with 3 attention heads, the model has 2"),
        ({"class_token": True}, "cls_token: missing in the file"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(change, message):
    model = vit(2, **change)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        expand_into(model, extract_learngene(auxiliary()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_where_there_is_no_or_more_than_one_transformer():
    learngene = extract_learngene(auxiliary())
    with pytest.raises(UserError, match=r"one vision transformer .* is needed, Linear has none"):
        expand_into(nn.Linear(2, 2), learngene)
    with pytest.raises(UserError, match="ModuleList has 2: 0, 1"):
        expand_into(nn.ModuleList([vit(1), vit(1)]), learngene)
    with pytest.raises(UserError, match="not a list of layers"):
        expand_into(auxiliary(), learngene)


class TestFiles:
    def test_what_is_written_is_read_again_by_file_or_folder(self, tmp_path):
        own = extract_learngene(auxiliary())
        path = save_learngene(own, tmp_path / "deep" / "learngene.safetensors")
        for found in (read_learngene(path), read_learngene(path.parent)):
            assert (found.heads, found.depth) == (3, 4)
            for part in ("base", "slope", "shared"):
                mine, theirs = getattr(own, part), getattr(found, part)
                assert mine.keys() == theirs.keys()
                assert all(torch.equal(value, theirs[name]) for name, value in mine.items())

    def test_missing_foreign_and_broken_ones_are_named(self, tmp_path):
        with pytest.raises(UserError, match=r"learngene.path: nowhere.safetensors not found"):
            read_learngene("nowhere.safetensors", "learngene.path")
        with pytest.raises(UserError, match=r"w.pt is not accepted; a .safetensors file"):
            read_learngene(tmp_path / "w.pt")
        file = tmp_path / "w.safetensors"
        file.write_bytes(b"no tensors")
        with pytest.raises(UserError, match="cannot be read"):
            read_learngene(file)
        weight = {"base.w": torch.zeros(2), "slope.w": torch.zeros(2)}
        said = {"format": "learngene", "version": "1"}
        save_file(weight, file)
        with pytest.raises(UserError, match="holds no learngene"):
            read_learngene(file)
        save_file(weight, file, {**said, "version": "2"})
        with pytest.raises(UserError, match="has version 2, this program reads version 1"):
            read_learngene(file)
        save_file({**weight, "other": torch.zeros(1)}, file, said)
        with pytest.raises(UserError, match="has a tensor 'other'"):
            read_learngene(file)
        save_file({"base.w": torch.zeros(2), "slope.w": torch.zeros(3)}, file, said)
        with pytest.raises(UserError, match="its base and slope are not of the same tensors"):
            read_learngene(file)
        save_file(weight, file, {**said, "heads": "three"})
        with pytest.raises(UserError, match="heads 'three'"):
            read_learngene(file)
