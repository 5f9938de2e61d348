"""RF8 in evaluations: rounded while they last, the real weights after them, the average where there is one."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from callbacks.ema import EMA
from callbacks.rf8 import RF8, in_rf8, rf8_
from framework.errors import UserError
from framework.functional.compression.rate import sqnr
from framework.functional.compression.rf8 import round_to_rf8


class Net(BoringModel):
    fail = False

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(32, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        self.seen = []

    def record(self):
        self.seen.append({name: p.detach().clone() for name, p in self.named_parameters()})
        if self.fail:
            raise RuntimeError("cut short")

    def validation_step(self, batch, batch_idx):
        self.record()
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self.record()
        return super().test_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        self.record()
        return self(batch)


class Real(pl.Callback):
    """The weights before each evaluation and after it."""

    def __init__(self):
        self.pairs = []

    def on_validation_start(self, trainer, module):
        self.before = {name: p.detach().clone() for name, p in module.named_parameters()}

    def on_validation_end(self, trainer, module):
        self.pairs.append((self.before, {name: p.detach().clone() for name, p in module.named_parameters()}))


def trainer_of(folder, *callbacks, **options):
    torch.manual_seed(0)
    settings = {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 2, "limit_test_batches": 2, **options}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_predict_batches=2,
        default_root_dir=folder,
        **settings,
    )


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def rounded(weights):
    return {name: round_to_rf8(w) if w.ndim > 1 else w for name, w in weights.items()}


def test_evaluations_see_rounded_weights_and_training_real_ones(tmp_path):
    model, real, plain = Net(), Real(), Net()
    plain.load_state_dict(model.state_dict())
    trainer = trainer_of(tmp_path, RF8(), real)
    trainer.fit(model)
    assert len(real.pairs) == 3  # the sanity check too
    assert len(model.seen) == 6
    for (before, after), seen in zip(real.pairs, model.seen[::2], strict=True):
        assert same(before, after)
        assert same(rounded(before), seen)
        assert not same(before, seen)
    before = real.pairs[-1][0]
    matrices = [w for w in before.values() if w.ndim > 1]
    expected = sqnr(matrices, [round_to_rf8(w) for w in matrices])
    assert float(trainer.callback_metrics["rf8/sqnr"]) == pytest.approx(expected, rel=1e-5)
    trainer_of(tmp_path).fit(plain)
    assert same(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("fail", [False, True])
def test_the_weights_come_back_exactly(tmp_path, stage, fail):
    model = Net()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    model.fail = fail
    trainer = trainer_of(tmp_path, RF8(exclude=["layer.2.*"]))
    if fail:
        with pytest.raises(RuntimeError, match="cut short"):
            getattr(trainer, stage)(model)
    else:
        getattr(trainer, stage)(model)
    assert torch.equal(model.seen[0]["layer.0.weight"], round_to_rf8(before["layer.0.weight"]))
    assert torch.equal(model.seen[0]["layer.2.weight"], before["layer.2.weight"])
    assert same(before, model.state_dict())


@pytest.mark.parametrize("order", [1, -1])
def test_the_average_is_what_is_rounded(tmp_path, order):
    averaged, both = Net(), Net()
    both.load_state_dict(averaged.state_dict())
    trainer_of(tmp_path, EMA(0.7)).fit(averaged)
    trainer_of(tmp_path, *[RF8(), EMA(0.7)][::order]).fit(both)
    assert same(averaged.state_dict(), both.state_dict())
    for expected, seen in zip(averaged.seen, both.seen, strict=True):
        assert same(rounded(expected), seen)


def test_the_function_and_its_context():
    model = Net()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with in_rf8(model) as ratio:
        assert same(rounded(before), model.state_dict())
        assert 25 < ratio < 31
    assert same(before, model.state_dict())
    with pytest.raises(RuntimeError, match="shapes"), in_rf8(model):
        model(torch.zeros(1, 7))
    assert same(before, model.state_dict())


def test_refusals(tmp_path):
    with pytest.raises(UserError, match=r"rf8.include: 'head' names nothing in the model; nearest: layer"):
        trainer_of(tmp_path, RF8(include=["head"])).validate(Net())
    model = Net()
    model.layer[2].weight.data[0, 0] = float("nan")
    first = model.layer[0].weight.clone()
    with pytest.raises(UserError, match=r"rf8: layer\.2\.weight holds NaN or infinity"):
        rf8_({name: p.detach() for name, p in model.named_parameters() if p.ndim > 1})
    assert torch.equal(model.layer[0].weight, first)
