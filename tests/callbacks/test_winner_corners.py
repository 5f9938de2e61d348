"""WINNER: zeros keep their sign, when Nyquist's frequency is passed, which axis rows lie along."""

import math
import warnings

import pytest
import torch

from callbacks.winner import Winner, winner_init_
from framework.editing import edit
from framework.functional.spectral_centroid import spectral_centroid
from modules.initialization.winner.backbones import SIREN


def test_no_noise_leaves_every_bit():
    model = SIREN(width=8)
    with torch.no_grad():
        model.layers[0].weight.fill_(-0.0)
        model.layers[1].weight.fill_(-0.0)
    winner_init_(model, 0.0, 0.0, seed=0)
    assert torch.signbit(model.layers[0].weight).all()
    assert torch.signbit(model.layers[1].weight).all()


@pytest.mark.parametrize(
    ("s0", "omega_first", "warned"),
    [(150.0, 30.0, False), (160.0, 30.0, True), (80.0, 60.0, True), (150.0, 15.0, False)],
)
def test_the_warning_compares_radians_a_unit_with_nyquist(s0, omega_first, warned):
    """100 samples on [-1, 1]: π · 50 = 157; a first layer of twice the frequency has twice the noise."""

    class Data:
        def target_signal(self):
            return torch.randn(100, 1, generator=torch.Generator().manual_seed(0))

    class Trainer:
        datamodule = Data()
        world_size = 1

    from framework.editing import Context

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        edit(SIREN(width=8, omega_first=omega_first), Winner(s0=s0, s1=1.0, seed=0), Context(trainer=Trainer()))
    assert any("Nyquist" in str(warning.message) for warning in found) == warned


def test_rows_lie_along_the_last_axis():
    t = torch.arange(64, dtype=torch.float64)
    picture = torch.cos(2 * math.pi * 16 * t / 64).expand(10, 64)[..., None]
    assert spectral_centroid(picture, "rows") == pytest.approx(0.5)
    assert spectral_centroid(picture.transpose(0, 1), "rows") == pytest.approx(0.0, abs=1e-9)
