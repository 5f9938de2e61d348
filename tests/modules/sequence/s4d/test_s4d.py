"""S4D: backbone, classifier, regressor."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig, parameter_groups
from framework.protocols import HasKernels, HasMemory, RateTransferable
from modules.sequence.s4d import SSM, S4DClassifier, S4DRegressor
from modules.sequence.s4d.model import S4DBackbone, TiedDropout, pool

SMALL = {"d_model": 16, "n_layers": 2, "ssm": SSM(8)}


def trainer(folder, **options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **options}
    return pl.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def digits(batch_size=50):
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32)[..., None] / 8 - 1, torch.tensor(y)
    train, test = TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, 200)


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("prenorm", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(norm, prenorm, pooling, bidirectional):
    torch.manual_seed(0)
    options = {"norm": norm, "prenorm": prenorm, "pooling": pooling, "ssm": SSM(8, bidirectional=bidirectional)}
    model = S4DClassifier(vocabulary=7, **SMALL | options)
    short, long = torch.randint(7, (1, 20)), torch.randint(7, (1, 33))
    padded = torch.cat([torch.cat([short, torch.full((1, 13), 3)], 1), long])
    lengths = torch.tensor([20, 33])
    if norm == "batch":  # moments of the training batch must not see the padding either
        other = copy.deepcopy(model)
        model(padded, lengths)
        other(torch.cat([padded, torch.zeros(2, 5, dtype=torch.long)], 1), lengths)
        for a, b in zip(model.buffers(), other.buffers(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    model.eval()
    together = model(padded, lengths)
    assert torch.allclose(together, torch.cat([model(short), model(long)]), atol=1e-5)


@pytest.mark.parametrize("prenorm", [False, True])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_a_stream_gives_the_features_of_the_sequence(prenorm, norm):
    torch.manual_seed(0)
    backbone = S4DBackbone(2, **SMALL, prenorm=prenorm, norm=norm, dropout=0.1).eval()
    x = torch.randn(3, 25, 2)
    with torch.no_grad():
        whole, states, systems = backbone(x), backbone.initial_states(3), backbone.systems()
        for k in range(25):
            h, states = backbone.step(x[:, k], states, systems)
            assert torch.allclose(h, whole[:, k], atol=1e-4)


def test_dropout_is_tied_over_time():
    torch.manual_seed(0)
    out = TiedDropout(0.5)(torch.ones(4, 30, 16))
    assert (out == out[:, :1]).all()
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert (TiedDropout(0.5).eval()(out) == out).all()


def test_pooling():
    h = torch.arange(12.0).view(2, 3, 2)
    assert (pool(h, "mean") == h.mean(1)).all()
    assert (pool(h, "last") == h[:, -1]).all()
    lengths = torch.tensor([1, 3])
    assert (pool(h, "last", lengths) == torch.stack([h[0, 0], h[1, 2]])).all()
    assert (pool(h, "mean", lengths) == torch.stack([h[0, 0], h[1].mean(0)])).all()


def test_two_parameter_groups():
    model = S4DClassifier(**SMALL)
    groups = parameter_groups(model, OptimizerConfig(lr=1e-2, weight_decay=0.05))
    found = {name: (g["lr"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert len(groups) == 2
    for name, values in found.items():
        slow = name.rsplit(".", 1)[-1] in ("inv_dt", "A_real", "A_imag", "B")
        assert values == ((1e-3, 0.0) if slow else (1e-2, 0.05)), name
    low = parameter_groups(model, OptimizerConfig(lr=1e-4))
    assert {g["lr"] for g in low} == {1e-4}


def test_learns_the_digits(tmp_path):
    pl.seed_everything(0)
    train, test = digits()
    model = S4DClassifier(
        d_model=32,
        n_layers=2,
        ssm=SSM(16),
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig("onecycle"),
    )
    run = trainer(tmp_path, max_epochs=6)
    run.fit(model, train, test)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(run.callback_metrics)
    assert run.test(model, test, verbose=False)[0]["test/accuracy"] > 0.6


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_regresses_in_every_precision_and_logs_the_error_in_the_targets_unit(tmp_path, precision):
    pl.seed_everything(0)
    x = torch.randn(64, 30, 2)
    y = 100 + 5 * x[..., 0].mean(1)
    loader = DataLoader(TensorDataset(x, y), 16)
    model = S4DRegressor(2, target_mean=100.0, target_std=1.0, **SMALL, optimizer={"lr": 1e-2})
    run = trainer(tmp_path, max_epochs=8, precision=precision)
    run.fit(model, loader, loader)
    assert run.callback_metrics["val/rmse"] < 0.7 * y.std()
    found = run.predict(model, loader)[0]
    assert found["prediction"].shape == (16, 1)
    assert (found["target"] == y[:16, None]).all()


def test_tokens_lengths_and_predictions(tmp_path):
    tokens, lengths = torch.randint(1, 9, (20, 40)), torch.randint(5, 41, (20,))
    loader = DataLoader(TensorDataset(tokens, torch.randint(3, (20,)), lengths), 10)
    model = S4DClassifier(n_classes=3, vocabulary=9, norm="batch", **SMALL)
    run = trainer(tmp_path)
    run.fit(model, loader, loader)
    found = run.predict(model, loader)[0]
    assert found["probabilities"].shape == (10, 3)
    assert torch.allclose(found["probabilities"].sum(1), torch.ones(10))
    assert (found["prediction"] == found["probabilities"].argmax(1)).all()
    assert found["target"].shape == (10,)
    assert "target" not in model.predict_step(tokens[:2], 0)


def test_checkpoint_loads_as_plain_data(tmp_path):
    train, test = digits()
    model = S4DClassifier(
        **SMALL | {"ssm": SSM(8, "inv")}, optimizer=OptimizerConfig(lr=3e-3), schedule={"name": "cosine"}
    )
    run = trainer(tmp_path, limit_train_batches=2, limit_val_batches=1)
    run.fit(model, train, test)
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    again = S4DClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.optimizer_config.lr == 3e-3
    x = next(iter(test))[0]
    assert torch.equal(model.eval()(x), again.eval()(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_builds_on_meta():
    with torch.device("meta"):
        model = S4DClassifier(3, d_model=512, n_layers=6, ssm=SSM(init="legs", n_ssm=2, bidirectional=True))
    assert all(p.is_meta for p in model.parameters())
    assert model(torch.empty(2, 64, 3, device="meta")).shape == (2, 10)


def test_rate_scales_the_step_size():
    torch.manual_seed(0)
    model = S4DClassifier(**SMALL).eval()
    x = torch.randn(4, 60, 1)
    target = torch.tensor([0, 1, 2, 3])
    metrics = model.metrics_at_rate((x, target), 2)
    assert torch.allclose(metrics["loss"], model.loss(model(x[:, ::2], rate=2.0), target))
    doubled = S4DClassifier(**SMALL, rate=2.0).eval()
    doubled.load_state_dict(model.state_dict())
    assert torch.equal(doubled(x), model(x, rate=2.0))


def test_what_callbacks_ask_for():
    model = S4DClassifier(**SMALL)
    assert isinstance(model, HasKernels)
    assert isinstance(model, HasMemory)
    assert isinstance(model, RateTransferable)
    data = model.kernel_data(50)
    assert [d.name for d in data] == ["layer 0", "layer 1"]
    assert data[0].kernel.shape == (16, 50)
    assert data[0].basis.shape == (4, 50)
    curves = model.memory_curves([1, 8], 2000)
    assert set(curves) == {"layer0", "layer1"}
    assert all(len(c) == 2 and c[0] > c[1] > -1 for c in curves.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "bach"}, "norm: 'bach' is not one of layer, batch; did you mean 'batch'"),
        ({"activation": "glu"}, "activation: 'glu'.*did you mean 'gelu'"),
        ({"final_act": "gl"}, "final_act: 'gl'"),
        ({"pooling": "max"}, "pooling: 'max' is not one of mean, last"),
        ({"dropout": 1.0}, "dropout: 1.0"),
        ({"n_classes": 1}, "n_classes: 1"),
        ({"rate": 0.0}, "rate: 0.0"),
        ({"ssm": {"init": "leg"}}, "ssm.init: 'leg'.*did you mean 'legs'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(UserError, match=message):
        S4DClassifier(**{**SMALL, **options})


def test_bad_data_is_named():
    with pytest.raises(UserError, match="d_input: 1 does not match the data, which has 2 features"):
        S4DClassifier(**SMALL)(torch.randn(1, 5, 2))
    with pytest.raises(UserError, match="vocabulary: 9 needs integer tokens"):
        S4DClassifier(vocabulary=9, **SMALL)(torch.randn(1, 5))
