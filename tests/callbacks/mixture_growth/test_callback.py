"""The technique in a Trainer: its events, members that do not touch, resumes, ways in, settings that are refused."""

import copy
import logging

import lightning.pytorch as pl
import pytest
import torch
from composition.probes import Probe
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_harness import Data, Net, assert_same_end, fit, in_child
from torch.utils.data import DataLoader, TensorDataset

import framework
from callbacks.gg_init import GGInit
from callbacks.lora import LoRA
from callbacks.mixture_growth import MixtureGrowth, TemplateLinear, grow, phase_of
from framework.editing import Context, Stage, edit, ledger_of, undo
from framework.editing.engine import in_order
from framework.errors import UserError
from framework.optim import OptimizerConfig

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
FOLD = 3
EVENTS = [(0, "convert"), (1, "member"), (2, "grow"), (FOLD, "fold")]


class Watch(pl.Callback):
    """Keeps the state, what is trainable and the rates of each epoch."""

    def __init__(self):
        self.states, self.trainable, self.rates, self.phases = [], [], [], []

    def on_train_start(self, trainer, pl_module):
        self.start = {k: v.clone() for k, v in pl_module.state_dict().items()}

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append({k: v.clone() for k, v in pl_module.state_dict().items()})
        self.trainable.append({n for n, p in pl_module.named_parameters() if p.requires_grad})
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.phases.append(phase_of(pl_module))


def trainer_of(folder, *callbacks, **kwargs):
    options = {"max_epochs": 4, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "default_root_dir": folder, "num_sanity_val_steps": 0}
    options["enable_checkpointing"] = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return pl.Trainer(**{**options, **kwargs}, callbacks=list(callbacks))


def batches():
    return DataLoader(TensorDataset(torch.randn(32, 16), torch.randint(0, 4, (32,))), 8)


def technique(**settings):
    return MixtureGrowth(**{"member_epochs": [1, 1], **settings})


def test_events_phases_and_members_that_leave_each_other_alone(tmp_path):
    pl.seed_everything(3, verbose=False)
    watch, model = Watch(), Net()
    names = list(model.state_dict())
    trainer = trainer_of(tmp_path, technique(fold_epoch=FOLD), watch)
    trainer.fit(model, datamodule=Data())
    assert [(plan.epoch, plan.decision["action"]) for plan in ledger_of(model).plans] == EVENTS
    assert watch.phases == [0, 1, 2, None]
    assert list(model.state_dict()) == names
    first, second, grown, _ = watch.states
    assert list(watch.start) == list(first) == list(second) == list(grown)
    member = [[n for n in first if f"_{m}." in f"{n}." and "net" in n] for m in (0, 1)]
    assert any("running_mean" in name for name in member[0])
    assert all(torch.equal(watch.start[n], first[n]) for n in member[1]), "AdamW decays what it is given"
    assert all(torch.equal(first[n], second[n]) for n in member[0])
    assert not any(torch.equal(watch.start[n], first[n]) for n in member[0])
    assert not any(torch.equal(first[n], second[n]) for n in member[1])
    assert watch.trainable[0] == {n for n in member[0] if "running" not in n and "batches" not in n}
    assert {n.rpartition(".")[2] for n in watch.trainable[2]} >= {"templates_0", "templates_1", "alpha_0", "bias_grown"}
    assert trainer.callback_metrics["mixture_growth/phase"] == 3


def run(folder, **kwargs):
    made = technique(fold_epoch=FOLD, mode="copy")
    return in_child(lambda: fit(folder, callbacks=[made], max_epochs=4, **kwargs))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    assert run(folder) == 0
    return folder


@pytest.mark.parametrize("batch", [5, 14, 25, 36])  # ten an epoch: in each phase
def test_a_resume_in_each_phase_is_bit_identical(tmp_path, uninterrupted, batch):
    assert run(tmp_path, kill=("on_train_batch_end", batch)) == 137
    assert (tmp_path / "last.ckpt").exists()
    assert run(tmp_path, resume=True) == 0
    assert_same_end(uninterrupted, tmp_path)


def test_a_checkpoint_of_every_phase_opens_in_every_way(tmp_path):
    pl.seed_everything(3, verbose=False)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, enable_version_counter=False)
    model = Probe("mlp")
    x = torch.randn(6, 16)
    loader = batches()
    trainer = trainer_of(tmp_path, technique(fold_epoch=FOLD), keep)
    trainer.fit(model, loader, loader)
    for epoch, phase in enumerate((0, 1, 2, None)):
        path = tmp_path / f"epoch={epoch}.ckpt"
        saved = torch.load(path, weights_only=True)
        by_hand = Probe("mlp")
        framework.replay(by_hand, saved)
        by_hand.load_state_dict(saved["state_dict"], strict=True)
        identities = [id(p) for p in by_hand.parameters()]
        framework.replay(by_hand, saved)
        assert [id(p) for p in by_hand.parameters()] == identities, "twice is once"
        opened = [by_hand, Probe.load_from_checkpoint(path), framework.open_model(path, Probe)]
        flags = [n for n, p in by_hand.named_parameters() if p.requires_grad]
        for one in opened:
            assert phase_of(one) == phase
            assert [n for n, p in one.named_parameters() if p.requires_grad] == flags
            assert torch.equal(one.eval()(x), by_hand.eval()(x))
        expected = by_hand(x)
        framework.fold(by_hand)
        plain = Probe("mlp")
        plain.load_state_dict(by_hand.state_dict(), strict=True)
        torch.testing.assert_close(plain.eval()(x), expected, atol=1e-5, rtol=1e-5)
        trainer = trainer_of(tmp_path)
        tested = trainer.test(Probe("mlp"), loader, ckpt_path=str(path), verbose=False)[0]["test/loss"]
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(opened[1](loader.dataset.tensors[0]), loader.dataset.tensors[1])
        assert tested == pytest.approx(float(loss), abs=1e-6)
    model = framework.open_model(tmp_path / "epoch=2.ckpt", Probe)
    with pytest.raises(UserError, match="overwrote values"):
        undo(model, "mixture_growth")


def test_each_stage_has_its_optimiser_and_its_schedule(tmp_path):
    made = MixtureGrowth([2, 1], fold_epoch=5, growth_lr=0.01, growth_schedule={"cycles": 4, "cycle_decay": 0.5})
    model = Probe("mlp", OptimizerConfig(lr=0.1))
    stages = []
    for epoch, _ in made.events:
        plan = edit(model, made, Context(at="epoch" if epoch else "start", epoch=epoch))
        stages.append(Stage(**plan.decision["stage"]))
    late = {"optimizer": {"lr": 0.01}, "schedule": {"cycles": 4, "cycle_decay": 0.5}}
    assert stages == [Stage(0, 2), Stage(2, 1), Stage(3, 2, **late), Stage(5, None, **late)]
    pl.seed_everything(3, verbose=False)
    watch, model = Watch(), Probe("mlp", OptimizerConfig(lr=0.1))  # a cosine down to zero
    loader = batches()
    trainer_of(tmp_path, technique(growth_lr=0.01), watch, max_epochs=4).fit(model, loader)
    assert watch.rates == pytest.approx([0.0, 0.0, 0.005, 0.0], abs=1e-9)


def test_values_come_from_the_seed_of_the_run(tmp_path):
    def weights(seed):
        pl.seed_everything(seed, verbose=False)
        model = Probe("mlp")
        edit(model, technique())
        return model.net[0].templates_0

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_an_initialisation_writes_to_templates(tmp_path):
    pl.seed_everything(3, verbose=False)
    model = Probe("sine")
    drawn = GGInit()
    order = in_order([drawn, technique()])
    assert list(order) == ["mixture_growth", "gg_init"]
    edit(model, order["mixture_growth"])
    before = {n: p.clone() for n, p in model.named_parameters()}
    edit(model, drawn)
    changed = {n.rpartition(".")[2] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {"templates_0", "templates_1"} <= changed
    assert not any(name.startswith("alpha") for name in changed)


def test_lora_waits_for_plain_layers(tmp_path):
    pl.seed_everything(3, verbose=False)
    model, lora = Net(), LoRA(rank=2, target_modules=["net.0"])
    trainer_of(tmp_path, lora, technique(fold_epoch=FOLD)).fit(model, datamodule=Data())
    assert [plan.name for plan in ledger_of(model).plans] == ["mixture_growth"] * 4 + ["lora"]
    with pytest.raises(UserError, match=r"mixture_growth\.fold_epoch: None"):
        trainer_of(tmp_path, LoRA(rank=2), technique()).fit(Net(), datamodule=Data())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"member_epochs": [3]}, r"^member_epochs: \[3\] is not accepted; two numbers"),
        ({"member_epochs": [0, 2]}, r"^member_epochs"),
        (
            {"member_epochs": [2, 2], "fold_epoch": 4},
            r"^fold_epoch: 4 is not accepted; above 4 \(the sum of member_epochs\)",
        ),
        ({"mode": "zeros"}, r"^mode: 'zeros'"),
        ({"scale": -1.0}, r"^scale: -1"),
        ({"member_template_sets": [0, 1]}, r"^member_template_sets"),
        ({"templates": 0}, r"^templates"),
        ({"init": "zeros"}, r"^init"),
        ({"copy_noise": -1.0}, r"^copy_noise"),
        ({"growth_lr": -0.1}, r"^growth_lr"),
        ({"growth_lr": float("inf")}, r"^growth_lr: inf"),
        ({"scale": float("inf")}, r"^scale: inf"),
        ({"copy_noise": float("inf")}, r"^copy_noise: inf"),
        ({"growth_schedule": {"cycels": 4}}, r"^growth_schedule\.cycels: there is no such setting"),
        ({"growth_schedule": {"cycles": "four"}}, r"^growth_schedule\.cycles: 'four' .* an integer of at least 1"),
        ({"growth_schedule": {"cycles": 0}}, r"^growth_schedule\.cycles: 0 .* at least 1"),
        ({"growth_schedule": {"name": "cosin"}}, r"^growth_schedule\.name: 'cosin' .* one of constant"),
        ({"growth_schedule": {"milestones": 3}}, r"^growth_schedule\.milestones: 3 .* a list of epochs"),
        ({"growth_schedule": {"warmup": -0.5}}, r"^growth_schedule\.warmup: -0.5 .* at least 0"),
    ],
)
def test_settings_that_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        MixtureGrowth(**settings)


def test_what_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"member_epochs: \[2, 2\] .* the training has 4 epochs.*grow at epoch 4"):
        trainer_of(tmp_path, MixtureGrowth([2, 2])).fit(Net(), datamodule=Data())
    with pytest.raises(UserError, match=r"fold_epoch: 7 .* folded at epoch 7"):
        trainer_of(tmp_path, technique(fold_epoch=7)).fit(Net(), datamodule=Data())
    with pytest.raises(UserError, match=r"member_epochs: \[1, 1\] .* has 8 steps.*grow after 8; .*max_steps above 8"):
        trainer_of(tmp_path, technique(), max_steps=8).fit(Probe("mlp"), batches())
    with pytest.raises(UserError, match=r"fold_epoch: 3 .* has 12 steps.* folded after 12"):
        trainer_of(tmp_path, technique(fold_epoch=3), max_steps=12).fit(Probe("mlp"), batches())
    with pytest.raises(UserError, match=r"mixture_growth\.layers: {} is not accepted"):
        trainer_of(tmp_path, technique(layers={})).fit(Probe("mlp"), batches())
    trainer_of(tmp_path, MixtureGrowth([2, 2]), fast_dev_run=True).fit(Net(), datamodule=Data())


def test_options_reach_the_model(tmp_path):
    pl.seed_everything(3, verbose=False)
    model = Probe("mlp")
    made = technique(freeze_members=True, copy_noise=0.0, normalise=True, banks=True, member_template_sets=[0, 1, 1, 0])
    edit(model, made)
    edit(model, made, Context(at="epoch", epoch=1))
    layer = model.net[4]
    assert isinstance(layer, TemplateLinear)
    assert torch.equal(layer.templates_0, layer.templates_1)
    assert torch.equal(layer.alpha_0, layer.alpha_1)
    by_hand = copy.deepcopy(model)
    edit(model, made, Context(at="epoch", epoch=2))
    assert not layer.alpha_0.requires_grad
    assert layer.alpha_2.requires_grad
    assert layer.member_sets == (0, 1, 1, 0)
    grow(by_hand)
    assert torch.equal(by_hand.net[4].alpha_3, layer.alpha_3)
