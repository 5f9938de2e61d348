"""WINNER: centroids and scales against closed forms, the noise against its statistics, and where it may not go."""

import math
import warnings

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from callbacks.gg_init import GGInit
from callbacks.lora import LoRA
from callbacks.warm_start import WarmStart
from callbacks.winner import Winner, noise_scales, winner_init_
from framework.checkpoints.opening import open_model
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.data.seeding import mix
from framework.editing import Context, edit, fold, ledger_of
from framework.errors import UserError
from framework.functional.spectral_centroid import channel_centroids, grid_coordinates, spectral_centroid
from framework.module import Module
from framework.protocols import SineLayers, WeightPart

TONE = torch.cos(2 * math.pi * 0.3 * torch.arange(400))[:, None]


class Sines(Module):
    """A network of sines with the protocol, as small as can be."""

    def __init__(self, width=16, d_in=1, channels=1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.ModuleList([nn.Linear(d_in, width), nn.Linear(width, width), nn.Linear(width, channels)])

    def sine_layers(self):
        return SineLayers("net.0", "net.1", 30.0, 30.0, self.net[0].in_features, self.net[2].out_features)

    def forward(self, x):
        for layer in list(self.net)[:-1]:
            x = torch.sin(30 * layer(x))
        return self.net[-1](x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return ((self(x) - y) ** 2).mean()


class Signal(DataModule):
    def __init__(self, target=TONE):
        super().__init__(batch_size=100)
        self.target = target

    def setup(self, stage=None):
        values = self.target.reshape(-1, self.target.shape[-1])
        self.train_set = ArrayDataset(grid_coordinates(self.target.shape[:-1]), values)

    def target_signal(self):
        return self.target


def trainer(tmp_path, *techniques, epochs=1):
    return pl.Trainer(
        default_root_dir=tmp_path,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(techniques),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def context(target=TONE, **techniques):
    class Run:
        datamodule = Signal(target)
        world_size = 1

    return Context(trainer=Run(), techniques=techniques)


# ψ


def test_white_noise_has_its_centre_at_a_half():
    noise = np.random.default_rng(0).standard_normal((2**16, 1))
    assert spectral_centroid(noise) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("k", [1, 100, 511])
def test_a_tone_has_its_centre_at_its_bin(k):
    n = 1024
    tone = np.cos(2 * np.pi * k * np.arange(n) / n)[:, None]
    assert spectral_centroid(tone) == pytest.approx(2 * k / n, abs=1e-6)
    assert spectral_centroid(7.5 * tone) == pytest.approx(spectral_centroid(tone), rel=1e-12)


@pytest.mark.parametrize("end", [0.1, 0.25, 0.45])
def test_a_linear_chirp_has_its_centre_in_the_middle(end):
    n = 2**14
    t = np.arange(n)
    chirp = np.cos(np.pi * end * t**2 / n)[:, None]
    assert spectral_centroid(chirp) == pytest.approx(end, rel=0.05)


def test_the_centroid_is_numpys_of_amplitudes_not_of_power():
    y = np.random.default_rng(1).standard_normal((101, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    expected = []
    for c in range(2):
        a, f = np.abs(np.fft.rfft(y[:, c])), np.fft.rfftfreq(101)
        expected.append((a * f).sum() / a.sum())
    np.testing.assert_allclose(channel_centroids(y).numpy(), expected, rtol=1e-12)
    assert spectral_centroid(y) == pytest.approx(2 * np.mean(expected) / 2, rel=1e-12)


def test_a_picture_is_read_as_one_signal_by_rows_or_along_each_axis():
    rows, columns = np.meshgrid(np.arange(64), np.arange(32), indexing="ij")
    y = (np.cos(2 * np.pi * 8 * rows / 64) * np.cos(2 * np.pi * 4 * columns / 32))[..., None]
    assert spectral_centroid(y, "rows") == pytest.approx(2 * 4 / 32, abs=1e-6)
    assert spectral_centroid(y, "axes") == pytest.approx([2 * 8 / 64, 2 * 4 / 32], abs=1e-6)
    assert spectral_centroid(y) == spectral_centroid(y.reshape(-1, 1))


def test_a_silent_signal_has_its_centre_at_zero_and_a_broken_one_is_refused():
    assert spectral_centroid(np.zeros((8, 1))) == 0
    with pytest.raises(UserError, match="not finite"):
        spectral_centroid(np.array([[1.0], [math.nan]]))
    with pytest.raises(UserError, match=r"centroid: 'both' is not one of ravel, rows, axes"):
        spectral_centroid(np.ones((8, 1)), "both")


# scales


def test_the_scales_are_the_formulas():
    assert noise_scales(1.0, 1) == (pytest.approx(3496.8084), pytest.approx(3.0))
    assert noise_scales(0.5, 2) == (pytest.approx(45.895750), pytest.approx(0.2))
    assert noise_scales(0.0, 1) == (0.0, 0.0)
    assert noise_scales(0.6, 2, channels=3) == (pytest.approx(50 * (1 - math.exp(-1.0))), pytest.approx(0.08))
    root = 0.6 / math.sqrt(3)
    assert noise_scales(0.6, 1, 3, a=5.0, channel_power=0.5) == (
        pytest.approx(3500 * (1 - math.exp(-5 * root))),
        pytest.approx(3 * root),
    )


def test_three_dimensions_need_their_constants():
    with pytest.raises(UserError, match=r"winner.s0_max, a and b: \(None, 2.0, None\) is not accepted for 3 input"):
        noise_scales(0.5, 3, a=2.0)
    assert noise_scales(0.5, 3, s0_max=10.0, a=2.0, b=1.0) == (pytest.approx(10 * (1 - math.exp(-1))), 0.5)


# noise


def test_the_noise_has_its_deviations_and_the_rest_stays_bit_for_bit():
    model = Sines(width=512, d_in=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = winner_init_(model, s0=90.0, s1=1.5, seed=4)
    assert plan["noise"] == {"net.0.weight": 3.0, "net.1.weight": 0.05}
    for name, value in model.state_dict().items():
        if name in plan["noise"]:
            assert float((value - before[name]).std()) == pytest.approx(plan["noise"][name], rel=0.02)
        else:
            assert torch.equal(value, before[name])


def test_without_scales_every_bit_stays():
    model = Sines()
    model.net[0].weight.data[0] = -0.0
    before = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    winner_init_(model, 0.0, 0.0, seed=0)
    assert {name: value.numpy().tobytes() for name, value in model.state_dict().items()} == before


def test_the_seed_or_a_generator_decides_and_torchs_own_stays_where_it_was():
    def noisy(**source):
        torch.manual_seed(0)
        model = Sines()
        state = torch.get_rng_state()
        winner_init_(model, 30.0, 1.0, **source)
        same_place = torch.equal(state, torch.get_rng_state())
        return model.net[1].weight.detach(), same_place

    assert torch.equal(noisy(seed=1)[0], noisy(seed=1)[0])
    assert not torch.equal(noisy(seed=1)[0], noisy(seed=2)[0])
    assert noisy(seed=1)[1]
    one, two = (noisy(generator=torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(one, two)


def test_two_layers_without_a_model_will_do():
    layers = [nn.Linear(1, 256), nn.Linear(256, 256)]
    before = layers[1].weight.clone()
    winner_init_(layers, 10.0, 2.0, w0=20.0, seed=0)
    assert float((layers[1].weight - before).detach().std()) == pytest.approx(0.1, rel=0.02)


def test_each_input_dimension_can_have_its_own():
    model = Sines(width=2000, d_in=2)
    before = model.net[0].weight.clone()
    winner_init_(model, [30.0, 300.0], 0.0, seed=0)
    noise = (model.net[0].weight - before).detach()
    assert noise.std(0).tolist() == pytest.approx([1.0, 10.0], rel=0.05)
    with pytest.raises(UserError, match=r"winner.s0: \[1.0\] is not accepted, net.0.weight has 2 columns"):
        winner_init_(model, [1.0], 0.0)


class Mixed(nn.Module):
    """A linear layer whose weight is a mixture of two templates."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.templates = nn.Parameter(torch.zeros(2, outputs, inputs))
        self.register_buffer("coefficients", torch.tensor([0.6, 2.0]))

    @property
    def weight(self):
        return torch.einsum("t,toi->oi", self.coefficients, self.templates)

    def weight_parts(self):
        templates = self.templates
        return [WeightPart("templates", templates.shape[2], templates.shape[1], float(self.coefficients.norm()))]


def test_a_computed_weight_gets_the_noise_through_its_parts():
    model = nn.ModuleList([nn.Linear(1, 300), Mixed(300, 300)])
    plan = winner_init_(model, 0.0, 3.0, w0=30.0, layers=["0", "1"], seed=0)
    assert "1.templates" in plan["noise"]
    assert float(model[1].weight.detach().std()) == pytest.approx(0.1, rel=0.02)


# as a technique


def test_the_target_decides(tmp_path):
    model, winner = Sines(), Winner(seed=9)
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match=r"above the Nyquist frequency of 400 samples"):
        trainer(tmp_path, winner, epochs=0).fit(model, Signal())
    (plan,) = ledger_of(model).plans
    psi = spectral_centroid(TONE)
    s0, s1 = noise_scales(psi, 1)
    assert plan.decision == {
        "psi": psi,
        "s0": s0,
        "s1": s1,
        "w0": 30.0,
        "seed": 9,
        "layers": ["net.0", "net.1"],
        "noise": {"net.0.weight": s0 / 30, "net.1.weight": s1 / 30},
    }
    expected = torch.randn(16, 16, generator=torch.Generator().manual_seed(mix(9, 1))) * (s1 / 30)
    torch.testing.assert_close(model.net[1].weight - before["net.1.weight"], expected)


def test_scaling_with_the_samples_stays_below_nyquist():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = edit(Sines(), Winner(scale_with_n=True), context())
    assert plan.decision["s0"] == pytest.approx(noise_scales(plan.decision["psi"], 1)[0] * 400 / 150_000)
    target = torch.randn(64, 128, 1, generator=torch.Generator().manual_seed(0))
    decision = edit(Sines(d_in=2), Winner(scale_with_n=True, centroid="axes"), context(target)).decision
    expected = [50 * (1 - math.exp(-5 * p)) * n / 512 for p, n in zip(decision["psi"], (64, 128), strict=True)]
    assert decision["s0"] == pytest.approx(expected)


def test_one_scale_alone_may_be_given():
    decision = edit(Sines(), Winner(psi=0.4, s0=0.0), Context()).decision
    assert (decision["s0"], decision["s1"]) == (0.0, pytest.approx(1.2))


def test_a_second_fit_adds_none(tmp_path):
    model, winner = Sines(), Winner(s0=30.0, s1=1.0)
    trainer(tmp_path, winner, epochs=0).fit(model, Signal())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(tmp_path, winner, epochs=0).fit(model, Signal())
    trainer(tmp_path, Winner(s0=30.0, s1=1.0), epochs=0).fit(model, Signal())
    assert len(ledger_of(model).plans) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_resumed_run_has_its_weights_and_opens(tmp_path):
    model = Sines()
    first = trainer(tmp_path, Winner(s0=30.0, s1=1.0), epochs=1)
    first.fit(model, Signal())
    first.save_checkpoint(tmp_path / "a.ckpt")
    opened = open_model(tmp_path / "a.ckpt", Sines)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), opened.parameters(), strict=True))
    again = Sines()
    trainer(tmp_path, Winner(s0=30.0, s1=1.0), epochs=1).fit(again, Signal(), ckpt_path=tmp_path / "a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert fold(opened).state_dict().keys() == Sines().state_dict().keys()


def test_another_network_needs_everything_said(tmp_path):
    model = BoringModel()
    model.layer = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 2))
    with pytest.raises(UserError, match=r"winner.layers: BoringModel does not say .* give layers .*, s0, s1 and w0"):
        edit(model, Winner(), context())
    with pytest.raises(UserError, match=r"winner.s0 and s1: BoringModel does not say"):
        edit(model, Winner(layers=["layer.0", "layer.2"], w0=30.0), context())
    with pytest.raises(UserError, match=r"winner.w0: BoringModel does not say"):
        edit(model, Winner(layers=["layer.0", "layer.2"], s0=1.0, s1=1.0), context())
    winner = Winner(layers=["layer.0", "layer.2"], s0=3.0, s1=1.0, w0=10.0)
    assert winner.claimed(model) == ["layer.0", "layer.2"]
    assert edit(model, winner).decision["noise"] == {"layer.0.weight": 0.3, "layer.2.weight": 0.1}


def test_what_is_not_found_is_answered_with_the_nearest_names():
    with pytest.raises(UserError, match=r"winner.layers: 'net.9' names nothing in the model; nearest: net"):
        edit(Sines(), Winner(s0=1.0, s1=1.0, layers=["net.9", "net.1"]))
    with pytest.raises(UserError, match=r"winner.layers: net \(ModuleList\) is not accepted, it has no parameter"):
        edit(Sines(), Winner(s0=1.0, s1=1.0, layers=["net", "net.1"]))


def test_shared_frozen_and_adapted_layers_are_refused():
    winner = Winner(s0=1.0, s1=1.0)
    shared = Sines()
    shared.net.append(shared.net[1])
    with pytest.raises(UserError, match=r"net.1 is not accepted, its weight is shared: net.1.weight and net.3.weight"):
        edit(shared, winner)
    frozen = Sines()
    frozen.net[1].weight.requires_grad_(False)
    with pytest.raises(UserError, match=r"net.1 is not accepted, net.1.weight is frozen"):
        edit(frozen, winner)
    adapted = Sines()
    edit(adapted, LoRA(rank=2, target_modules=["net.0"]))
    with pytest.raises(UserError, match=r"net.0 is not accepted, it carries an adapter"):
        edit(adapted, winner)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"psi": -1.0}, "^psi: -1.0"),
        ({"psi": 0.5, "s0": 1.0, "s1": 1.0}, "^psi: 0.5 is not accepted with s0 and s1"),
        ({"channel_power": math.nan}, "^channel_power: nan is not accepted; a finite number"),
        ({"w0": math.inf}, "^w0: inf is not accepted; above 0"),
        ({"s0": -1.0}, "^s0: -1.0"),
        ({"s1": math.nan}, "^s1: nan"),
        ({"centroid": "all"}, "^centroid: 'all'"),
        ({"layers": ["a"]}, r"^layers: \['a'\]"),
        ({"w0": 0.0}, "^w0: 0.0"),
        ({"seed": -1}, "^seed: -1"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, said):
    with pytest.raises(UserError, match=said):
        Winner(**settings)


def test_a_target_is_needed_and_must_fit():
    with pytest.raises(UserError, match=r"winner.psi, or s0 and s1: .* there is no datamodule"):
        edit(Sines(), Winner(), Context())
    with pytest.raises(
        UserError, match=r"the target signal \(400, 1\) has 1 dimensions and 1 channels .its last axis., the network 2"
    ):
        edit(Sines(d_in=2), Winner(), context())


def test_fresh_weights_are_drawn_before_and_the_noise_stays(tmp_path):
    class Wide(Sines):
        pass

    alone, both = Wide(), Wide()
    gg = GGInit(seed=0, include=["net.2"])
    trainer(tmp_path, Winner(s0=30.0, s1=1.0, seed=1), epochs=0).fit(alone, Signal())
    both.load_state_dict(Wide().state_dict())
    start = both.net[1].weight.clone()
    trainer(tmp_path, Winner(s0=30.0, s1=1.0, seed=1), gg, epochs=0).fit(both, Signal())
    assert [plan.name for plan in ledger_of(both).plans] == ["gg_init", "winner"]
    expected = torch.randn(16, 16, generator=torch.Generator().manual_seed(mix(1, 1))) / 30
    torch.testing.assert_close(both.net[1].weight - start, expected)


def test_a_warm_start_and_noise_on_the_same_weights_exclude_each_other(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(Sines().state_dict(), path)
    winner = Winner(s0=30.0, s1=1.0)

    def fit(**settings):
        model = Sines()
        trainer(tmp_path, WarmStart(**settings), winner, epochs=0).fit(model, Signal())
        return model, [plan.name for plan in ledger_of(model).plans]

    with pytest.raises(UserError, match=r"net.0.weight and net.1.weight would be perturbed by both; either"):
        fit(checkpoint=str(path))
    with pytest.raises(UserError, match=r"winner and warm_start: net.1.weight would be"):
        fit(checkpoint=str(path), exclude=["net.0.weight"])
    model, done = fit(checkpoint=str(path), shrink=1.0, perturb=0.0)
    assert done == ["warm_start", "winner"]
    noise = model.net[1].weight - torch.load(path)["net.1.weight"]
    assert float(noise.detach().std()) == pytest.approx(1 / 30, rel=0.15)
    assert fit(checkpoint=str(path), exclude=["net.0.weight", "net.1.weight"])[1] == ["warm_start", "winner"]
    assert fit(checkpoint=str(path), include=["net.2.*"])[1] == ["warm_start", "winner"]
    assert fit()[1] == ["warm_start", "winner"]  # no file: fresh weights, and the noise on them
    assert fit(when=[3])[1] == ["winner"]
