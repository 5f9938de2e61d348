"""GG initialisation: standard deviations against torch's, shapes against scipy's, and what it leaves alone."""

import json
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from scipy import stats
from torch import nn

from callbacks.gg_init import GGInit, draw_, gg_init_, plan_gg_init, xi_of
from framework.editing import Context
from framework.editing.layer_weights import choose_weights
from framework.editing.technique import IMPORTED
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg


def net():
    return nn.Sequential(
        nn.Linear(30, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 50, bias=False), nn.Linear(50, 7)
    )


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 3.0])
def test_weights_have_the_shape_and_the_deviation(shape):
    layer = nn.Linear(500, 400)
    gg_init_(layer, shape=shape, seed=1)
    w = layer.weight.detach().flatten().numpy()
    std = math.sqrt(2 / 500)
    assert stats.kstest(w, stats.gennorm(shape, scale=gg.scale_of_std(std, shape)).cdf).pvalue > 0.01
    assert w.std() == pytest.approx(std, rel=0.03 if shape < 1 else 0.01)
    assert (layer.bias == 0).all()


def test_shape_2_is_kaimings_normal():
    layer, oracle = nn.Linear(512, 512), torch.empty(512, 512)
    plan = gg_init_(layer, shape=2.0, xi=2.0, seed=0)
    torch.manual_seed(0)
    nn.init.kaiming_normal_(oracle, nonlinearity="relu")
    assert plan["weights"]["weight"]["std"] == pytest.approx(math.sqrt(2) / math.sqrt(512), rel=1e-12)
    assert stats.ks_2samp(layer.weight.detach().flatten().numpy(), oracle.flatten().numpy()).pvalue > 0.01
    assert float(layer.weight.detach().std()) == pytest.approx(float(oracle.std()), rel=0.01)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 10), nn.Conv1d(6, 10, 3), nn.Conv2d(6, 10, (3, 5)), nn.Conv3d(6, 10, 2), nn.Embedding(6, 10)]
)
def test_the_fan_is_torchs(layer, mode):
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    plan = plan_gg_init(layer, mode=mode, kinds=("linear", "conv", "embedding"))
    assert plan["weights"]["weight"]["fan"] == (fan_in if mode == "fan_in" else fan_out)


def test_the_fan_of_grouped_and_transposed_convolutions_counts_real_connections():
    for layer in (nn.Conv1d(6, 4, 3, groups=2), nn.ConvTranspose1d(6, 4, 3, groups=2)):
        x = torch.zeros(1, 6, 15)
        x[0, :, 7] = torch.arange(1.0, 7)
        nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
        reached = int((layer(x)[0] != 0).sum()) // 2  # by both groups
        assert plan_gg_init(layer, mode="fan_out")["weights"]["weight"]["fan"] == reached
        middle = layer(torch.ones(1, 6, 15))[0, 0, 7]  # every weight is 1: the number of inputs
        assert plan_gg_init(layer)["weights"]["weight"]["fan"] == int(middle)


def test_official_takes_the_first_dimension_and_spares_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(6, 10))
    before = model[0].weight.clone()
    plan = gg_init_(model, mode="official", kinds=("linear",), seed=0)
    assert plan["weights"] == {"1.weight": {**plan["weights"]["1.weight"], "fan": 10, "std": math.sqrt(2 / 10)}}
    assert torch.equal(model[0].weight, before)


def test_conv1d_of_transformers_stores_inputs_first():
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(nf=12, nx=5)
    assert plan_gg_init(layer)["weights"]["weight"]["fan"] == 5
    assert plan_gg_init(layer, mode="fan_out")["weights"]["weight"]["fan"] == 12


def test_attentions_projections_are_linear_layers():
    plan = plan_gg_init(nn.MultiheadAttention(8, 2))
    assert {name: entry["fan"] for name, entry in plan["weights"].items()} == {
        "in_proj_weight": 8,
        "out_proj.weight": 8,
    }
    assert plan["biases"] == ["in_proj_bias", "out_proj.bias"]
    plan = plan_gg_init(nn.MultiheadAttention(8, 2, kdim=4, vdim=6))
    assert {name: entry["fan"] for name, entry in plan["weights"].items()} == {
        "q_proj_weight": 8,
        "k_proj_weight": 4,
        "v_proj_weight": 6,
        "out_proj.weight": 8,
    }


@pytest.mark.parametrize(
    ("activation", "xi"), [("relu", 2), ("sigmoid", 1), ("tanh", 1), ("linear", 1), ("leaky_relu", 2 / 1.04)]
)
def test_xi_is_the_square_of_torchs_gain(activation, xi):
    assert xi_of(activation, 0.2) == pytest.approx(xi)
    if activation not in ("tanh",):  # torch's 5/3 is an empirical number
        assert xi_of(activation, 0.2) == pytest.approx(nn.init.calculate_gain(activation, 0.2) ** 2)


def test_norms_and_what_is_excluded_stay():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = gg_init_(model, shape=1.0, exclude=["4"], seed=0)
    assert list(plan["weights"]) == ["0.weight", "3.weight"]
    assert plan["biases"] == ["0.bias"]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias", "3.weight"}
    assert gg_init_(model, include=["4", "0"], zero_bias=False, seed=0)["biases"] == []


def test_modules_with_their_own_initialisation_stay():
    class Sine(nn.Module):
        own_initialisation = True

        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3))

    class Special(nn.Linear):
        pass

    shared = Sine()
    model = nn.ModuleDict({"a": shared, "b": nn.Linear(3, 3), "c": Special(3, 3), "d": shared})
    assert list(choose_weights(model, key="gg_init")) == ["b.weight"]


def test_adapters_stay():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), LoraConfig(target_modules=["0"], r=2))
    names = list(choose_weights(model, key="gg_init"))
    assert [name.removeprefix("base_model.model.") for name in names] == ["0.base_layer.weight", "1.weight"]
    assert not any("lora" in name for name in names)


def test_tied_weights_are_drawn_once_and_a_tie_with_an_embedding_counts_as_one():
    tied = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    tied[1].weight = tied[0].weight
    assert list(choose_weights(tied, key="gg_init")) == ["0.weight"]
    for order in ((0, 1), (1, 0)):
        pair = [nn.Embedding(9, 5), nn.Linear(5, 9)]
        pair[1].weight = pair[0].weight
        model = nn.Sequential(*(pair[i] for i in order), nn.Linear(2, 2))
        assert list(choose_weights(model, key="gg_init")) == ["2.weight"]
        assert choose_weights(model, kinds=["embedding"], key="gg_init")["0.weight"]["fan"] == 5


def test_the_padding_row_of_an_embedding_stays_zero():
    model = nn.Embedding(6, 4, padding_idx=2)
    gg_init_(model, kinds=["embedding"], seed=0)
    assert (model.weight[2] == 0).all()
    assert (model.weight[[0, 1, 3, 4, 5]] != 0).all()


def test_the_seed_decides_and_without_one_torchs_generator():
    def drawn(seed, torch_seed=0, layer=0):
        model = net()
        torch.manual_seed(torch_seed)
        gg_init_(model, shape=1.5, seed=seed)
        return model[layer].weight.detach()

    assert torch.equal(drawn(5), drawn(5, 1))
    assert not torch.equal(drawn(5), drawn(6))
    assert torch.equal(drawn(None, 1), drawn(None, 1))
    assert not torch.equal(drawn(None, 1), drawn(None, 2))
    square = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    gg_init_(square, seed=0)
    assert not torch.equal(square[0].weight, square[1].weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_drawn_in_single_and_rounded(dtype):
    plan = plan_gg_init(net(), shape=0.5, seed=3)
    single, half = net(), net().to(dtype)
    draw_(single, plan), draw_(half, plan)
    for one, other in zip(single.parameters(), half.parameters(), strict=True):
        assert torch.equal(one.to(dtype), other)


def test_a_low_shape_is_warned_of():
    with pytest.warns(UserWarning, match=r"gg_init.shape: at 0.1 nearly all weights are 0"):
        gg_init_(net(), shape=0.1, seed=0)


def test_what_is_not_found_is_answered_with_the_nearest_names():
    with pytest.raises(UserError, match=r"gg_init.include: 'encoder' names nothing in the model; nearest: .*0"):
        gg_init_(net(), include=["encoder"])
    with pytest.raises(UserError, match=r"gg_init.kinds: 'embedding layers' names nothing in the model; nearest: .*0"):
        gg_init_(net(), kinds=["embedding"])
    with pytest.raises(UserError, match=r"gg_init.exclude leaves nothing"):
        gg_init_(net(), exclude=["*"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": 0}, "^shape: 0"),
        ({"xi": -1.0}, "^xi: -1.0"),
        ({"activation": "gelu"}, "^activation: 'gelu' is not one of relu"),
        ({"mode": "fan"}, "^mode: 'fan' is not one of fan_in, fan_out, official"),
        ({"kinds": ["norm"]}, r"^kinds: 'norm' is not one of linear, conv, embedding"),
        ({"seed": -1}, "^seed: -1"),
    ],
)
def test_bad_settings_are_named_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        GGInit(**settings)


class Net(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 2)
        self.unused = nn.Embedding(3, 3)


def test_the_callback_decides_plain_data_and_draws_what_the_function_does():
    model, other = Net(), Net()
    technique = GGInit(shape=1.0, activation="leaky_relu", negative_slope=0.5)
    context = Context(seed=12)
    decision = technique.decide(model, context)
    assert json.loads(json.dumps(decision)) == decision
    before = model.layer.weight.clone()
    GGInit.apply(model, decision)
    assert torch.equal(model.layer.weight, before)
    technique.initialise(model, decision, context)
    gg_init_(other, shape=1.0, xi=2 / 1.25, seed=12)
    assert torch.equal(model.layer.weight, other.layer.weight)
    assert decision["weights"]["layer.weight"]["std"] == pytest.approx(math.sqrt(1.6 / 32))
    assert set(technique.settings()) >= {"shape", "xi", "mode", "include", "exclude", "kinds", "seed"}
    # another technique that asks for fresh weights gets others of the same distribution
    technique.initialise(other, decision, Context(seed=13))
    assert not torch.equal(model.layer.weight, other.layer.weight)


def fit(folder, technique, epochs=1, ckpt_path=None):
    torch.manual_seed(0)
    trainer = pl.Trainer(
        max_epochs=epochs,
        limit_train_batches=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        callbacks=[technique],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    model = Net()
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer, model


def test_in_a_trainer_it_draws_once_and_a_resume_keeps_the_trained_values(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setitem(IMPORTED, "gg_init", GGInit)  # put back after the subclass below
    start = []

    class Recorder(GGInit):
        technique = "gg_init"

        def on_fit_start(self, trainer, pl_module):
            start.append(pl_module.layer.weight.detach().clone())

    trainer, model = fit(tmp_path, Recorder(shape=0.8, seed=4))
    expected = Net()
    gg_init_(expected, shape=0.8, seed=4)
    assert torch.equal(start[0], expected.layer.weight)
    assert not torch.equal(model.layer.weight, start[0])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    fit(tmp_path, Recorder(shape=0.8, seed=4), epochs=2, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(start[1], model.layer.weight)
    plans = torch.load(tmp_path / "a.ckpt", weights_only=True)["editing"]["plans"]
    assert [plan["technique"] for plan in plans] == ["gg_init"]
    again = Net.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(again.layer.weight, model.layer.weight)
