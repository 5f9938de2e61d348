"""Template layers: memory formats, shared templates, what a layer keeps of the one it was made from."""

import copy

import pytest
import torch
from torch import nn

from callbacks.mixture_growth import convert_to_templates, fold_, grow, set_phase
from callbacks.mixture_growth.members import least_direction


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d])
def test_channels_last_is_left_to_images(layer):
    torch.manual_seed(0)
    model = nn.Sequential(layer(2, 6, 3), nn.ReLU(), layer(6, 4, 3), nn.ReLU(), layer(4, 3, 1)).double()
    convert_to_templates(model)
    grow(model, "orthogonal")
    x = torch.randn(2, 2, *[9] * (1 if layer is nn.Conv1d else 2), dtype=torch.float64)
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    assert model[2].templates_0.is_contiguous()
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    assert model[2].templates_1.grad is not None
    model.float()
    assert model[2].templates_0.dtype == torch.float32


def test_layers_that_share_templates_are_each_scaled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)).double()
    convert_to_templates(model, banks=True)
    with torch.no_grad():
        model[1].templates_0.mul_(4.0)
        model[1].alpha_0.mul_(2.0)
        model[2].alpha_0.mul_(3.0)
    grow(model, "none", normalise=True)
    for layer in (model[1], model[2]):
        for name in ("templates", "alpha"):
            first, second = getattr(layer, f"{name}_0"), getattr(layer, f"{name}_1")
            torch.testing.assert_close(first.norm(), second.norm())


def test_least_direction_has_no_sign_to_choose():
    vectors = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    found = least_direction(vectors)
    assert found[found.abs().argmax()] > 0
    assert torch.equal(found, least_direction(-vectors))


def test_a_single_frozen_parameter_stays_so():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 3))
    model[2].bias.requires_grad_(False)
    model[1].weight.requires_grad_(False)
    convert_to_templates(model)
    for phase in (0, 1, 2):
        set_phase(model, phase)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert not any(name.startswith("2.bias") or name.endswith(".weight") for name in trained)
        assert {f"2.templates_{phase % 2}", f"0.bias_{'grown' if phase == 2 else phase}"} <= trained
        assert sum(name.startswith("1.") for name in trained) == 1
    fold_(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"1.weight", "2.bias"}


def test_a_weight_drawn_as_the_layer_had_it_suits_a_members_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    before = float(model[2].weight.std())
    convert_to_templates(model, init="layer")
    for index, gain in ((0, 1.0), (2, 2**0.5), (4, 2**0.5)):  # half the inputs, but for the first layer
        for member in (0, 1):
            assert float(model[index].block(member).std()) == pytest.approx(before * gain, rel=0.03)


def test_a_parameter_that_is_given_other_memory_is_seen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    convert_to_templates(model)
    model.eval()
    x = torch.randn(2, 4)
    with torch.no_grad():
        before = model(x)
        model[0].templates_0.data = model[0].templates_0.data + 1
        assert not torch.allclose(model(x), before)


def test_counts_and_variances_of_batch_norms():
    """The larger count of the two, and variances that any norm can divide by."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3))
    convert_to_templates(model)
    for phase, steps in ((0, 2), (1, 5)):
        set_phase(model, phase)
        for _ in range(steps):
            model(torch.randn(8, 4))
    member = fold_(copy.deepcopy(model))
    assert member[1].running_var[:3].tolist() == [1, 1, 1]
    assert not torch.equal(member[1].running_var[3:], torch.ones(3))
    grow(model)
    assert int(fold_(model)[1].num_batches_tracked) == 5


def test_a_norm_at_two_places_is_one_afterwards():
    norm = nn.BatchNorm1d(6, affine=False)
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.Linear(6, 6), norm, nn.Linear(6, 3))
    convert_to_templates(model)
    assert model[1] is model[3] is not norm
    model(torch.randn(8, 4))
    grow(model)
    fold_(model)
    assert model[1] is model[3]
    assert type(model[1]) is nn.BatchNorm1d
