"""Coordinate networks: their initialisation, metrics and tangent kernels against closed forms, and a fit through it all."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from torch import nn

import framework
from framework.checkpoints.opening import open_model
from framework.editing import Context, edit, ledger_of
from framework.editing.registry import find_technique
from framework.errors import UserError
from framework.functional.spectral_centroid import grid_coordinates
from framework.protocols import HasSineLayers
from modules.initialization.winner import INR
from modules.initialization.winner.backbones import BACKBONES, FINER, RFF, SIREN, ReLUPE, build_backbone
from modules.initialization.winner.metrics import PSNR, band_errors, psnr
from modules.initialization.winner.ntk import activation_spectra, kernel_spectrum, mass_above, tangent_kernel

CONFIG = "initialization/winner_band_noise"


def seeded_net(cls=SIREN, seed=0, **arguments):
    torch.manual_seed(seed)
    return cls(**arguments)


# backbones


def test_siren_is_its_formula():
    net = seeded_net(width=8, hidden_layers=3, omega_first=7.0, omega_hidden=5.0)
    x = torch.linspace(-1, 1, 6)[:, None]
    h = torch.sin(7 * (x @ net.layers[0].weight.T + net.layers[0].bias))
    for layer in net.layers[1:3]:
        h = torch.sin(5 * (h @ layer.weight.T + layer.bias))
    torch.testing.assert_close(net(x), h @ net.layers[3].weight.T + net.layers[3].bias)
    assert len(net.layers) == 4
    pre, post = zip(*net.activations(x), strict=True)
    torch.testing.assert_close(post[-1], h)
    torch.testing.assert_close(torch.sin(pre[0]), post[0])


def test_a_network_runs_on_the_meta_device():
    with torch.device("meta"):
        net = SIREN(width=8)
        assert net(torch.empty(6, net.layers[0].in_features)).shape == (6, net.layers[-1].out_features)


def test_siren_has_its_bounds():
    net = seeded_net(width=512, d_in=2, omega_hidden=20.0)
    w = [layer.weight.detach() for layer in net.layers]
    assert 0.49 < float(w[0].abs().max()) <= 0.5  # 1/d_in
    bound = math.sqrt(6 / 512) / 20
    for weight in w[1:]:
        assert 0.98 * bound < float(weight.abs().max()) <= bound
    assert float(w[1].std()) == pytest.approx(math.sqrt(2 / 512) / 20, rel=0.02)  # bound / √3
    assert 0.68 < float(net.layers[0].bias.abs().max()) <= 1 / math.sqrt(2)  # torch's own
    before = net.layers[1].weight.clone()
    net.layers[1].reset_parameters()
    assert not torch.equal(before, net.layers[1].weight)
    assert float(net.layers[1].weight.abs().max()) <= bound


@pytest.mark.parametrize("cls", [SIREN, FINER, RFF, ReLUPE])
def test_techniques_that_replace_layers_take_these(cls):
    count = len(seeded_net(cls, width=8).layers)
    assert {type(layer) for layer in seeded_net(cls, width=8).layers} == {nn.Linear}
    net = seeded_net(cls, width=8)
    edit(net, find_technique("lora")(rank=2))
    assert sum("lora_A" in name for name, _ in net.named_parameters()) == count
    net = seeded_net(cls, width=8)
    plan = edit(net, find_technique("mixture_growth")(init="layer"))
    assert len(plan.decision["layers"]) == count


def test_a_copy_of_a_layer_is_drawn_as_it_was():
    layer = seeded_net(width=512).layers[1]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        before, mine = layer.weight.clone(), other.weight.clone()
        other.reset_parameters()
        assert torch.equal(layer.weight, before)
        assert not torch.equal(other.weight, mine)
        assert 0.9 * math.sqrt(6 / 512) / 30 < float(other.weight.abs().max()) <= math.sqrt(6 / 512) / 30


@pytest.mark.parametrize(("s1", "expected"), [(0.0, 1.0), (1.0, math.sqrt(1 + 1024))])
@torch.no_grad()
def test_the_second_layer_has_the_variance_that_the_noise_gives(s1, expected):
    net = seeded_net(width=2048)
    for layer in net.layers:
        layer.bias.zero_()
    edit(net, find_technique("winner")(s0=3000.0, s1=s1, seed=0))
    x = torch.rand(256, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert float(net.activations(x)[1][0].std()) == pytest.approx(expected, rel=0.05)


def test_finer_is_its_formula():
    net = seeded_net(FINER, width=8, hidden_layers=2, bias_bound=3.0)
    x = torch.linspace(-1, 1, 6)[:, None]
    h = x
    for layer in net.layers[:2]:
        a = layer(h)
        h = torch.sin(30 * (a.abs() + 1) * a)
    torch.testing.assert_close(net(x), net.layers[2](h))
    assert float(net.layers[0].bias.detach().abs().max()) > 1


def test_fourier_features_and_positional_encoding_are_theirs():
    net = seeded_net(RFF, d_in=2, width=6, sigma=3.0)
    x = torch.rand(5, 2)
    angles = 2 * math.pi * x @ net.frequencies.T
    torch.testing.assert_close(net.encode(x), torch.cat([torch.cos(angles), torch.sin(angles)], 1))
    assert "frequencies" in net.state_dict()
    net = seeded_net(ReLUPE, width=6, levels=3)
    x = torch.tensor([[0.3]])
    expected = [
        0.3,
        *(math.sin(2**k * math.pi * 0.3) for k in range(3)),
        *(math.cos(2**k * math.pi * 0.3) for k in range(3)),
    ]
    assert net.encode(x)[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_learns(name):
    torch.manual_seed(0)
    net = build_backbone(name, d_in=1, channels=2, width=32, hidden_layers=2)
    x = grid_coordinates([64])
    y = torch.cat([torch.sin(6 * x), torch.cos(9 * x)], 1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert net(x).shape == (64, 2)


def test_the_arguments_of_sines_are_single_precision_under_autocast():
    net = seeded_net(width=32)
    x = torch.linspace(-1, 1, 64)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
    assert half.dtype == torch.bfloat16
    h = net.activations(x)[-1][1]
    last = net.layers[-1]
    expected = nn.functional.linear(h.bfloat16(), last.weight.bfloat16(), last.bias.bfloat16())
    torch.testing.assert_close(half, expected)  # everything before the output is as without autocast


def test_unknown_backbones_and_arguments_are_refused():
    with pytest.raises(
        UserError, match=r"backbone: 'sirene' is not one of siren, finer, rff, relu_pe; did you mean 'siren'"
    ):
        INR(backbone="sirene")
    with pytest.raises(UserError, match=r"backbone_args.omega_first: relu_pe does not take it"):
        INR(backbone="relu_pe", omega_first=30.0)
    with pytest.raises(UserError, match=r"width: 1 is not accepted"):
        INR(width=1)
    with pytest.raises(UserError, match=r"activation: 'tanh' is not one of sine, relu"):
        INR(backbone="rff", backbone_args={"activation": "tanh"})
    module = INR(backbone="relu_pe", width=8)
    with pytest.raises(UserError, match=r"ReLUPE does not begin with two layers of sines"):
        module.sine_layers()
    assert isinstance(INR(width=8), HasSineLayers)
    assert INR(width=8, omega_first=3.0).sine_layers().first == "net.layers.0"


# metrics


def test_psnr_is_its_definition_over_batches():
    assert psnr(1e-4, peak=1) == pytest.approx(40.0)
    assert psnr(1e-4) == pytest.approx(40 + 20 * math.log10(2))
    a, b = torch.rand(50, 1) * 2 - 1, torch.rand(50, 1) * 2 - 1
    metric = PSNR(peak=2.0)
    for part in (slice(0, 7), slice(7, 50)):
        metric.update(a[part], b[part])
    assert float(metric.compute()) == pytest.approx(psnr(float(((a - b) ** 2).mean())), rel=1e-6)


def test_psnr_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 40, 40))
    expected = metrics.peak_signal_noise_ratio(a, b, data_range=2)
    assert psnr(float(((a - b) ** 2).mean())) == pytest.approx(expected)


def test_band_errors_find_the_band():
    t = torch.arange(400, dtype=torch.float64)
    low, high = (torch.cos(math.pi * f * t)[:, None] for f in (0.1, 0.9))
    errors = band_errors(low, low + high, bands=4)
    assert errors[0] == pytest.approx(0, abs=1e-6)
    assert errors[3] == pytest.approx(1, abs=1e-6)
    assert math.isnan(errors[1])
    y = torch.randn(16, 20, 3, generator=torch.Generator().manual_seed(0))
    assert band_errors(torch.zeros_like(y), y, bands=3) == pytest.approx([1, 1, 1])
    assert band_errors(0.5 * y, y, bands=3) == pytest.approx([0.25, 0.25, 0.25])


# tangent kernel


def test_the_kernel_is_the_gram_matrix_of_the_gradients():
    net = seeded_net(width=6, channels=2, hidden_layers=2)
    net.layers[1].bias.requires_grad_(False)
    x = grid_coordinates([20])
    rows = []
    for point in x:
        row = []
        for channel in range(2):
            net.zero_grad()
            net(point[None])[0, channel].backward()
            row.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad]))
        rows.append(torch.stack(row).flatten())
    j = torch.stack(rows).double()
    kernel = tangent_kernel(net, x, chunk=7)
    torch.testing.assert_close(kernel, j @ j.T / 400, rtol=1e-4, atol=1e-6)
    assert float(kernel.trace()) == pytest.approx(float(j.square().sum()) / 400, rel=1e-5)
    torch.testing.assert_close(kernel, kernel.T)
    values, spectrum = kernel_spectrum(kernel)
    assert float(values.min()) > -1e-12 * float(values.max())
    assert float(values.sum()) == pytest.approx(float(kernel.trace()))
    both_sides = spectrum[0] + spectrum[-1] + 2 * spectrum[1:-1].sum()
    assert float(both_sides) == pytest.approx(float(kernel.trace()))


def test_noise_moves_the_kernel_and_the_activations_to_high_frequencies():
    x = grid_coordinates([256])
    plain, noisy = seeded_net(width=32), seeded_net(width=32)
    edit(noisy, find_technique("winner")(psi=0.75, seed=0))
    kernels = [mass_above(kernel_spectrum(tangent_kernel(net, x))[1]) for net in (plain, noisy)]
    assert kernels[1] > 10 * kernels[0]
    for layer in range(4):
        masses = [mass_above(activation_spectra(net, x)[layer]) for net in (plain, noisy)]
        assert masses[1] > 5 * masses[0]


# through the framework


def experiment(tmp_path, *overrides):
    small = [
        "--model.width=12",
        "--model.hidden_layers=2",
        "--data.samples=64",
        "--data.passes=3",
        "--trainer.max_epochs=3",
    ]
    small.append("--model.diagnostics=false")
    own = [f"--run.root={tmp_path}", "--wandb.mode=disabled", "--trainer.enable_progress_bar=false"]
    return framework.build(CONFIG, [*small, *own, "--trainer.enable_model_summary=false", *overrides])


def rows(folder):
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row.get("metrics", row) for row in lines]


def test_a_fit_is_resumed_bit_for_bit_and_opens(tmp_path):
    whole = experiment(tmp_path / "a", "--run.name=run", "--model.diagnostics=true")
    whole.run()
    first = experiment(tmp_path / "b", "--run.name=run")
    first.trainer.fit_loop.max_epochs = 1
    first.run()
    path = tmp_path / "b" / "winner_band_noise" / "run" / "checkpoints" / "last.ckpt"
    again = experiment(tmp_path / "b", f"--ckpt_path={path}")
    again.run()
    assert again.trainer.global_step == whole.trainer.global_step == 9
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert again.model.psnr_history == whole.model.psnr_history
    assert len(whole.model.psnr_history) == 3
    opened = open_model(path)
    assert all(torch.equal(a, b) for a, b in zip(opened.parameters(), again.model.parameters(), strict=True))
    assert [plan.name for plan in ledger_of(opened).plans] == ["winner"]
    figures = {figure.stem for figure in (whole.folder / "figures").iterdir()}
    assert figures == {"activations_start", "tangent_kernel_start", "psnr"}


def test_a_second_fit_in_one_process_adds_no_noise(tmp_path):
    one = experiment(tmp_path, "--trainer.max_epochs=0")
    one.run()
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    plain = INR(width=12, hidden_layers=2).state_dict()
    assert plain["net.layers.0.weight"].std() < 1 < before["net.layers.0.weight"].std()
    one.trainer.fit(one.model, one.datamodule)
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())


def test_mixing_seeds_does_not_change_the_base(tmp_path):
    without = experiment(tmp_path / "a", "--techniques.winner=null", "--trainer.max_epochs=0")
    zero = experiment(tmp_path / "b", "--techniques.winner.psi=0.0", "--trainer.max_epochs=0")
    without.run(), zero.run()
    assert all(torch.equal(a, b) for a, b in zip(without.model.parameters(), zero.model.parameters(), strict=True))


def test_held_out_samples_are_scored_apart_and_predictions_cover_all(tmp_path):
    run = experiment(tmp_path, "--data.holdout=0.25", "--data.eval_batch_size=10")
    run.run()
    metrics = run.trainer.callback_metrics
    data, model = run.datamodule, run.model
    x, y, held = data.test_set.tensors
    assert int(held.sum()) == 16
    with torch.no_grad():
        error = (model(x) - y).square()
    assert float(metrics["val/psnr"]) == pytest.approx(psnr(float(error[~held].mean())), rel=1e-4)
    assert float(metrics["val/psnr_peak1"]) == pytest.approx(float(metrics["val/psnr"]) - 20 * math.log10(2), rel=1e-4)
    assert float(metrics["val/psnr_heldout"]) == pytest.approx(psnr(float(error[held].mean())), rel=1e-4)
    assert model.predict_step((x, y, held), 0)["value"].shape == (64, 1)


def test_the_dimensions_must_fit(tmp_path):
    with pytest.raises(UserError, match=r"model.d_in: 2 is not accepted, the signal \(64, 1\) needs 1"):
        experiment(tmp_path, "--model.d_in=2", "--techniques.winner=null").run()


def after_testing(tmp_path, data, **module):
    import lightning.pytorch as pl

    model = INR(width=8, hidden_layers=2, **module)
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    (metrics,) = trainer.test(model, data, verbose=False)
    return model, metrics


def test_a_test_writes_audio(tmp_path):
    from datamodules.initialization.audio import AudioSignal

    model, metrics = after_testing(tmp_path, AudioSignal(max_samples=500))
    rate, samples = wavfile.read(tmp_path / "reconstruction.wav")
    assert (rate, samples.dtype, len(samples)) == (44_100, np.int16, 500)
    expected = model.reconstruct((500,))[:, 0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(samples / 32767, expected, atol=2e-5)
    assert {f.name for f in (tmp_path / "figures").iterdir()} == {"waveform.png", "spectrum.png"}
    assert {
        "test/psnr",
        "test/psnr_peak1",
        "test/spectral_error/band_0",
        "test/spectral_error/band_3",
    } <= metrics.keys()


def test_a_test_writes_a_picture_and_a_field(tmp_path):
    from datamodules.initialization.field import FieldSignal
    from datamodules.initialization.image import ImageSignal

    model, _ = after_testing(tmp_path, ImageSignal(picture="astronaut", size=12), d_in=2, channels=3)
    written = np.asarray(Image.open(tmp_path / "reconstruction.png"))
    expected = model.reconstruct((12, 12)).clamp(-1, 1).numpy()
    np.testing.assert_allclose(written / 127.5 - 1, expected, atol=0.005)
    assert (tmp_path / "figures" / "picture.png").exists()
    np.save(tmp_path / "field.npy", np.random.default_rng(0).standard_normal((4, 5, 6)))
    model, _ = after_testing(tmp_path, FieldSignal(str(tmp_path / "field.npy")), d_in=3)
    assert np.load(tmp_path / "reconstruction.npy").shape == (4, 5, 6, 1)
    with pytest.raises(UserError, match="for 3 input dimensions"):
        edit(model, find_technique("winner")(psi=0.5), Context())
