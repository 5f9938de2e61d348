"""EMA against a running average written by hand; frozen tensors, buffers, resumes, edits and evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Branch, Freeze, Net, Widen, trainer_of
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from resume_harness import Data
from torch import Tensor, nn

from callbacks.ema import EMA
from framework.errors import UserError


class WithBuffers(Net):
    """With a batch norm, a causal mask of infinities, one of booleans and an index too large for float32."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        self.register_buffer("allowed", torch.ones(3, 3, dtype=torch.bool).tril())
        self.register_buffer("index", torch.tensor([2**24 + 1]))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


class ByHand(Callback):
    """w̄ ← w at the first update, then decay·w̄ + (1 − decay)·w in double precision."""

    def __init__(self, decay: float, every: int = 1, start: int = 0, buffers: bool = True) -> None:
        self.decay, self.every, self.start, self.buffers = decay, every, start, buffers
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        step = trainer.global_step - 1
        self.raw = {name: value.detach().clone() for name, value in module.state_dict().items()}
        if step < self.start or step % self.every:
            return
        parameters = dict(module.named_parameters())
        for name, value in self.raw.items():
            old = self.average.get(name)
            averaged = name in parameters or self.buffers
            if old is None or old.shape != value.shape or not averaged or not value.is_floating_point():
                self.average[name] = value.double() if value.is_floating_point() else value.clone()
            else:
                old.copy_(torch.where(value == old, old, self.decay * old + (1 - self.decay) * value.double()))

    def on_validation_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        self.validated.append({name: value.clone() for name, value in module.state_dict().items()})


def net(kind: type[Net] = Net) -> Net:
    torch.manual_seed(1)
    return kind()


def fit(folder: Path, *callbacks: Any, model: Any = None, path: Any = None, **kwargs: Any) -> pl.Trainer:
    model = model or net()
    pl.seed_everything(3, verbose=False)
    trainer = trainer_of(folder, *callbacks, **kwargs)
    trainer.fit(model, datamodule=Data(), ckpt_path=path)
    return trainer


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name].to(value.dtype), value, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize(("every", "start", "buffers"), [(1, None, True), (3, 4, True), (1, None, False)])
def test_equals_a_running_average_by_hand(every: int, start: int | None, buffers: bool, tmp_path: Path) -> None:
    hand = ByHand(0.8, every, start or 0, buffers)
    model = net(WithBuffers)
    fit(tmp_path, EMA(0.8, every, start, buffers), hand, model=model)
    close(model.state_dict(), hand.average)
    assert not torch.allclose(hand.raw["first.weight"], model.first.weight)
    close(hand.validated[-1], hand.average)  # validated with it too
    assert int(model.index) == 2**24 + 1
    assert model.mask[0, 1] == float("-inf")
    assert int(model.norm.num_batches_tracked) == int(hand.average["norm.num_batches_tracked"])


def test_a_frozen_tensor_stays_to_the_bit(tmp_path: Path) -> None:
    model = net()
    before = model.first.weight.detach().clone()
    fit(tmp_path, Freeze(), EMA(0.937), model=model)
    assert torch.equal(model.first.weight, before)


def test_before_the_first_update_the_model_itself_is_validated_saved_and_kept(tmp_path: Path) -> None:
    hand, model = ByHand(0.8), net()
    trainer = fit(tmp_path, EMA(0.8, update_starting_at_step=1000), hand, model=model)
    close(model.state_dict(), hand.raw)
    close(hand.validated[-1], hand.raw)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    close(torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"], hand.raw)


def test_resumed_it_ends_as_if_never_stopped(tmp_path: Path) -> None:
    whole, halves = net(), net()
    fit(tmp_path, EMA(0.8), model=whole, max_epochs=4)
    fit(tmp_path, EMA(0.8), saver := ModelCheckpoint(tmp_path, filename="half"), max_epochs=2)
    fit(tmp_path, EMA(0.8), model=halves, max_epochs=4, path=saver.best_model_path)
    close(halves.state_dict(), whole.state_dict())


@pytest.mark.parametrize("technique", [Branch, Widen])
def test_follows_an_edit_in_training_and_resumes_from_it(technique: Any, tmp_path: Path) -> None:
    hand, model = ByHand(0.8), net()
    fit(tmp_path, technique(), EMA(0.8), hand, ModelCheckpoint(tmp_path, filename="late"), model=model, max_epochs=3)
    # a new tensor, or one that grew, has its first values as its average; the edit is made before a step
    names = [name for name, value in net().state_dict().items() if model.state_dict()[name].shape == value.shape]
    close({n: model.state_dict()[n] for n in names}, {n: hand.average[n] for n in names})
    # a plain Trainer learns of the edit with the checkpoint only; nothing is left to train, or an epoch
    resumed, whole = net(), net()
    fit(tmp_path, technique(), EMA(0.8), model=resumed, max_epochs=3, path=tmp_path / "late.ckpt")
    close(resumed.state_dict(), model.state_dict())
    fit(tmp_path, technique(), EMA(0.8), model=resumed, max_epochs=4, path=tmp_path / "late.ckpt")
    fit(tmp_path, technique(), EMA(0.8), model=whole, max_epochs=4)
    close(resumed.state_dict(), whole.state_dict())


def test_a_reset_restarts_the_average(tmp_path: Path) -> None:
    class Reset(ByHand):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                self.average.clear()

    hand, model = Reset(0.8), net()
    fit(tmp_path, Branch(optimizer="reset"), EMA(0.8), hand, model=model)
    close(model.state_dict(), hand.average)


def test_evaluations_after_a_fit_take_the_averaged_weights_of_a_checkpoint(tmp_path: Path) -> None:
    hand, model = ByHand(0.8), net()
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    model.test_step = lambda *args: None  # type: ignore[method-assign]
    data = Data()
    data.setup("fit")
    trainer = fit(tmp_path, EMA(0.8), hand, saver, model=model)
    averaged = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["state_dict"]
    for evaluate in (trainer.validate, trainer.test):
        evaluate(model, data.val_dataloader(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
        close(model.state_dict(), averaged)
        if evaluate == trainer.validate:
            close(hand.validated[-1], averaged)


def test_a_callback_that_served_an_earlier_run_averages_from_the_first_step(tmp_path: Path) -> None:
    ema, hand, model = EMA(0.8), ByHand(0.8), net()
    fit(tmp_path, ema, max_epochs=3)
    fit(tmp_path, ema, hand, model=model, max_epochs=1)
    close(model.state_dict(), hand.average)


def test_refusals(tmp_path: Path) -> None:
    for settings, message in (({"decay": 1.0}, r"^decay: 1\.0"), ({"update_every_n_steps": 0}, "update_every")):
        with pytest.raises(UserError, match=message):
            EMA(**settings)
    with pytest.raises(UserError, match="save_weights_only"):
        fit(tmp_path, EMA(), ModelCheckpoint(tmp_path, save_weights_only=True))
