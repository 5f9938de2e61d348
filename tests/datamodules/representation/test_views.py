"""Views of batches: identities, ranges, independence of images and views."""

import math

import pytest
import torch

from datamodules.representation.views import (
    RandomViews,
    _hue_rotations,
    colour_jitter,
    random_affine,
    random_resized_crop,
    unit_scale,
)
from framework.errors import UserError


def images(n=6, channels=3, side=8):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_no_change_is_the_identity():
    x = images()
    torch.testing.assert_close(random_affine(x, 0, 0, 0, 0), x)
    assert torch.equal(RandomViews("none", 3)(x), x[:, None].expand(-1, 3, -1, -1, -1))


def test_a_shift_of_half_the_side_moves_zeros_in():
    torch.manual_seed(0)
    found = random_affine(torch.ones(200, 1, 8, 8), 0, 0, 0, 0.5)
    assert 0.5 < float(found.mean()) < 0.9
    assert float(found.max()) <= 1 + 1e-6


def test_crops_stay_inside_the_image_and_half_are_mirrored():
    torch.manual_seed(0)
    ramp = torch.linspace(1, 2, 16).expand(400, 1, 16, 16)
    found = random_resized_crop(ramp)
    assert float(found.min()) >= 0.5  # zeros from outside: half at most, at the very border
    assert float(found[:, :, 2:-2, 2:-2].min()) >= 1
    rising = (found[:, 0, 8, -3] > found[:, 0, 8, 2]).float().mean()
    assert 0.4 < float(rising) < 0.6


def test_colours_stay_in_range_and_some_images_become_grey():
    torch.manual_seed(0)
    x = images(500)
    found = colour_jitter(x)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    grey = (found.amax(1) - found.amin(1)).flatten(1).amax(1) < 1e-6
    assert 0.15 < float(grey.float().mean()) < 0.25
    assert 0.1 < float((found == x).flatten(1).all(1).float().mean()) < 0.25  # 0.2 of the other four in five
    assert colour_jitter(images(5, 1)).shape == (5, 1, 8, 8)


def test_a_hue_keeps_grey_and_comes_back_after_a_full_turn():
    turn = _hue_rotations(torch.tensor([0.0, 2 * math.pi / 3, 2 * math.pi]))
    torch.testing.assert_close(turn @ torch.ones(3), torch.ones(3, 3))
    torch.testing.assert_close(turn[0], torch.eye(3))
    torch.testing.assert_close(turn[2], torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn[1] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["affine", "photo", "noise"])
def test_views_differ_and_the_generator_decides(kind):
    x = images()
    torch.manual_seed(1)
    first = RandomViews(kind, 2, 0.1)(x)
    torch.manual_seed(1)
    assert torch.equal(RandomViews(kind, 2, 0.1)(x), first)
    assert first.shape == (6, 2, 3, 8, 8)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_noise_has_its_deviation():
    torch.manual_seed(0)
    found = RandomViews("noise", 2, 0.2)(torch.zeros(1000, 7))
    assert float(found.std()) == pytest.approx(0.2, rel=0.03)


def test_scaling_and_bad_settings():
    x = unit_scale(images(), (0.5, 0.5, 0.5), (0.5, 0.25, 1.0))
    torch.testing.assert_close(x[:, 1], (images()[:, 1] - 0.5) / 0.25)
    with pytest.raises(UserError, match="augment: 'turn' is not one of none, affine, photo, noise"):
        RandomViews("turn")
    with pytest.raises(UserError, match="views: 0 is not accepted"):
        RandomViews("none", 0)
    with pytest.raises(UserError, match="noise: -1 is not accepted"):
        RandomViews("noise", 2, -1)
