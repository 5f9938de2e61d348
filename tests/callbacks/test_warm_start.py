"""Shrink and perturb: the arithmetic, what it leaves alone, where old weights come from, and when it is done."""

import copy
import hashlib
import logging
from itertools import pairwise

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.demos.boring_classes import BoringModel
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.warm_start import WarmStart, fresh_copy, shrink_perturb
from framework.editing import Context, Edit, Plan
from framework.editing.capabilities import FRESH_WEIGHTS, RANKING
from framework.editing.engine import edit
from framework.errors import UserError

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def net(seed, norm=False):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained(model, steps=30):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 6, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


class TestArithmetic:
    def test_one_and_zero_keep_every_bit(self):
        model = trained(net(0))
        old = values(model)
        shrink_perturb(model, 1.0, 0.0)
        assert all(torch.equal(value, old[name]) for name, value in values(model).items())

    def test_zero_and_one_is_a_fresh_net_of_the_same_seed(self):
        model = trained(net(0))
        shrink_perturb(model, 0.0, 1.0, fresh=lambda: net_without_seed(), seed=5)
        assert all(torch.equal(value, net(5).state_dict()[name]) for name, value in values(model).items())
        shrink_perturb(model, 0.0, 1.0, seed=6)  # a copy whose layers reset themselves, in the order of the model
        assert all(torch.equal(value, net(6).state_dict()[name]) for name, value in values(model).items())

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 0.0), (torch.float32, 1e-7)])
    @pytest.mark.parametrize("factors", [(0.6, 0.1), (0.4, 0.5), (0.2, 0.0)])
    def test_linear_in_between(self, dtype, tolerance, factors):
        model, fresh = trained(net(0)).to(dtype), net(5).to(dtype)
        old = values(model)
        assert shrink_perturb(model, *factors, fresh=fresh) == [name for name, _ in model.named_parameters()]
        for name, value in values(model).items():
            expected = factors[0] * old[name] + factors[1] * fresh.state_dict()[name]
            assert (value - expected).abs().max() <= tolerance

    def test_gaussian_noise_has_its_deviation(self):
        model = nn.Linear(300, 200)
        old = values(model)
        shrink_perturb(model, 0.6, 2.0, source="gaussian", sigma=0.01, seed=3)
        noise = model.weight - 0.6 * old["weight"]
        assert abs(float(noise.std(correction=0)) / 0.02 - 1) < 0.01
        assert abs(float(noise.mean())) < 3e-4
        again = nn.Linear(300, 200)
        again.load_state_dict(old)
        shrink_perturb(again, 0.6, 2.0, source="gaussian", sigma=0.01, seed=3)
        assert torch.equal(model.weight, again.weight)

    def test_weights_that_diverged_are_forgotten(self):
        model = net(0)
        model[0].weight.data.fill_(torch.nan)
        shrink_perturb(model, 0.0, 0.5, seed=1)
        assert all(value.isfinite().all() for value in values(model).values())

    def test_the_global_generators_are_left_as_they_were(self):
        torch.manual_seed(9)
        expected = torch.rand(3)
        torch.manual_seed(9)
        shrink_perturb(net_without_seed_but_forked(), 0.5, 0.5, seed=1)
        assert torch.equal(torch.rand(3), expected)


def net_without_seed():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def net_without_seed_but_forked():
    with torch.random.fork_rng():
        return net_without_seed()


class TestWhatItDoes:
    def perceptron(self, bias):
        torch.manual_seed(0)
        sizes = [10, 32, 32, 32, 5]
        layers = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
        return nn.Sequential(*layers[:-1]).double()

    def test_logits_without_biases_scale_with_the_depth(self):
        model, x = self.perceptron(bias=False), torch.randn(1000, 10, dtype=torch.float64)
        before = model(x)
        shrink_perturb(model, 0.6, 0.0)
        after = model(x)
        assert ((after - 0.6**4 * before).norm() / after.norm()) < 1e-5
        assert torch.equal(after.argmax(-1), before.argmax(-1))

    def test_biases_are_shrunk_too(self):
        model, x = self.perceptron(bias=True), torch.randn(1000, 10, dtype=torch.float64)
        old = values(model)
        before = model(x)
        shrink_perturb(model, 0.6, 0.0)
        after = model(x)
        assert ((after - 0.6**4 * before).norm() / after.norm()) > 1e-2
        assert torch.equal(model[0].bias, 0.6 * old["0.bias"])

    def test_shrinking_lowers_confidence(self):
        model = trained(net(0), 200)
        x = torch.randn(500, 6, generator=torch.Generator().manual_seed(2))
        entropies = []
        for shrink in (1.0, 0.8, 0.6, 0.4):
            copied = copy.deepcopy(model)
            shrink_perturb(copied, shrink, 0.0)
            entropies.append(float(torch.distributions.Categorical(logits=copied(x)).entropy().mean()))
        assert all(after > before + 0.01 for before, after in pairwise(entropies))

    @pytest.mark.parametrize("reset", [True, False])
    def test_running_statistics(self, reset):
        model = trained(net(0, norm=True))
        old = values(model)
        shrink_perturb(model, 0.6, 0.1, reset_buffers=reset, seed=1)
        norm = model[1]
        if reset:
            assert torch.equal(norm.running_mean, torch.zeros(8))
            assert torch.equal(norm.running_var, torch.ones(8))
            assert norm.num_batches_tracked == 0
        else:
            assert norm.num_batches_tracked == 30
            assert torch.equal(norm.running_mean, old["1.running_mean"])
        assert torch.equal(norm.weight, 0.6 * old["1.weight"] + 0.1 * torch.ones(8))
        assert torch.equal(norm.bias, 0.6 * old["1.bias"] + 0.0)

    def test_frozen_tensors_stay(self):
        model = trained(net(0, norm=True))
        old = values(model)
        model[0].weight.requires_grad_(False)
        model[1].requires_grad_(False)
        touched = shrink_perturb(model, 0.5, 0.5, seed=1)
        assert touched == ["0.bias", "3.weight", "3.bias"]
        assert torch.equal(model[0].weight, old["0.weight"])
        assert torch.equal(model[1].running_mean, old["1.running_mean"])
        assert not torch.equal(model[0].bias, old["0.bias"])

    def test_tied_tensors_are_shrunk_once(self):
        model = nn.ModuleDict({"embed": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
        model["head"].weight = model["embed"].weight
        old = model["embed"].weight.clone()
        assert shrink_perturb(model, 0.6, 0.0) == ["embed.weight"]
        assert torch.equal(model["head"].weight, 0.6 * old)
        assert model["head"].weight is model["embed"].weight

    def test_chosen_tensors(self):
        model = net(0)
        old = values(model)
        assert shrink_perturb(model, 0.5, 0.0, include=["weight"], exclude=["2.*"]) == ["0.weight"]
        assert torch.equal(model[2].weight, old["2.weight"])
        with pytest.raises(UserError, match=r"'2.wait' names nothing.*nearest: 2.weight"):
            shrink_perturb(model, include=["2.wait"])
        model.requires_grad_(False)
        with pytest.raises(UserError, match="no trainable parameter is left"):
            shrink_perturb(model)

    def test_further_factors_of_a_product_stay(self):
        class Product(nn.Module):
            second_factors = ("scale",)

            def __init__(self):
                super().__init__()
                self.template, self.scale = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        model = Product()
        assert shrink_perturb(model, 0.5, 0.0) == ["template"]
        assert torch.equal(model.template * model.scale, torch.full((3,), 0.5))

    def test_adapters_of_lora_shrink_by_lambda_not_its_square(self):
        from peft import LoraConfig, inject_adapter_in_model

        model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0", "2"]), net(0))
        for part in (model[0], model[2]):
            nn.init.normal_(part.lora_B["default"].weight)
        frozen = model[0].base_layer.weight.clone()
        delta, a = model[0].get_delta_weight("default").clone(), model[0].lora_A["default"].weight.clone()
        shrink_perturb(model, 0.6, 0.0)
        assert torch.allclose(model[0].get_delta_weight("default"), 0.6 * delta, rtol=1e-6)
        assert torch.equal(model[0].base_layer.weight, frozen)
        b = model[0].lora_B["default"].weight.clone()
        shrink_perturb(model, 0.6, 0.1, seed=1)
        assert torch.equal(model[0].lora_B["default"].weight, 0.6 * b)
        assert not torch.equal(model[0].lora_A["default"].weight, a)


class TestFreshWeights:
    def test_a_factory_is_needed_where_layers_cannot_reset_themselves(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3))

        model = nn.Sequential(nn.Linear(3, 3), Own())
        with pytest.raises(UserError, match=r"1 \(Own\) owns parameters and has no reset_parameters"):
            shrink_perturb(model, 0.5, 0.5)
        shrink_perturb(model, 0.5, 0.5, exclude=["1.*"])
        shrink_perturb(model, 0.5, 0.5, source="gaussian")
        shrink_perturb(model, 0.5, 0.5, fresh=lambda: nn.Sequential(nn.Linear(3, 3), Own()))
        with pytest.raises(UserError, match=r"0.weight is of shape \(4, 3\) in the fresh model, \(3, 3\) in this"):
            shrink_perturb(model, 0.5, 0.5, fresh=nn.Sequential(nn.Linear(3, 4), Own()))
        with pytest.raises(UserError, match=r"1.weight is missing in the fresh model"):
            shrink_perturb(model, 0.5, 0.5, fresh=nn.Sequential(nn.Linear(3, 3)))

    def test_a_lightning_module_is_built_again_from_its_arguments(self):
        torch.manual_seed(4)
        expected = Learner(width=5)
        model = Learner(width=5)
        torch.manual_seed(4)
        fresh = fresh_copy(model)
        assert torch.equal(fresh.own, expected.own)  # a parameter that nothing could reset
        assert torch.equal(fresh.net[0].weight, expected.net[0].weight)

    def test_pretrained_weights_are_not_fresh(self, tmp_path):
        torch.save(Learner(width=5).state_dict(), tmp_path / "w.pt")
        torch.manual_seed(4)
        expected = Learner(width=5)
        model = Learner(width=5, weights=str(tmp_path / "w.pt"))
        torch.manual_seed(4)
        assert torch.equal(fresh_copy(model).own, expected.own)

    def test_a_model_of_another_structure_than_its_arguments_say_is_copied(self):
        model = Learner(width=5, with_own=False)
        model.net[0] = nn.Linear(6, 9)
        model.net[2] = nn.Linear(9, 3)
        fresh = fresh_copy(model)
        assert fresh.net[0].weight.shape == (9, 6)
        assert not torch.equal(fresh.net[0].weight, model.net[0].weight)


class Learner(pl.LightningModule):
    """A classifier with a parameter of its own; six inputs, three classes."""

    def __init__(self, width: int = 8, weights: str | None = None, with_own: bool = True):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
        if with_own:
            self.own = nn.Parameter(torch.randn(3))
        if weights:
            self.load_state_dict(torch.load(weights))
        self.starts = []

    def training_step(self, batch, index):
        loss = F.cross_entropy(self.net(batch[0]) + getattr(self, "own", 0.0), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]

    def on_train_batch_start(self, batch, index):
        if index == 0:
            optimizer = self.trainer.optimizers[0]
            self.starts.append((len(optimizer.state), optimizer.param_groups[0]["lr"], values(self)))


class Signals(pl.LightningDataModule):
    """Forty samples; in which round it is, the epoch says."""

    rounds = 10

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(40, 6, generator=generator)
        self.set = TensorDataset(x, (x[:, 0] > 0).long())

    @property
    def round(self):
        return self.trainer.current_epoch // 2

    def train_dataloader(self):
        return DataLoader(self.set, 10)


def run(*techniques, model=None, epochs=1, data=None, **settings):
    torch.manual_seed(1)
    model = model or Learner()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(techniques),
        **settings,
    )
    trainer.fit(model, datamodule=data or Signals())
    return trainer, model


def plans_of(model):
    from framework.editing.ledger import ledger_of

    return ledger_of(model).plans


class TestInATrainer:
    def test_at_the_start(self):
        model = Learner()
        old = values(model)
        run(WarmStart(shrink=0.5, perturb=0.0), model=model)
        state, lr, start = model.starts[0]
        assert (state, lr) == (0, 0.1)
        assert all(torch.equal(start[name], 0.5 * old[name]) for name in old)
        (plan,) = plans_of(model)
        assert plan.decision["tensors"] == list(old)
        assert (plan.decision["shrink"], plan.decision["round"], plan.decision["sha256"]) == (0.5, None, None)

    def test_in_every_round_with_an_empty_optimiser_and_the_first_rate(self):
        _, model = run(WarmStart(shrink=0.0, perturb=1.0, when="rounds", seed=7), epochs=6)
        assert [round(lr, 5) for _, lr, _ in model.starts] == [0.1, 0.01, 0.1, 0.01, 0.1, 0.01]
        assert [state for state, _, _ in model.starts] == [0, 5, 0, 5, 0, 5]
        assert [plan.decision["round"] for plan in plans_of(model)] == [1, 2]
        assert [plan.decision["seed"] for plan in plans_of(model)] == [8, 9]
        for epoch, seed in ((2, 8), (4, 9)):
            torch.manual_seed(seed)
            fresh = values(Learner())
            assert all(torch.equal(model.starts[epoch][2][name], fresh[name]) for name in fresh)

    def test_before_given_epochs_once(self):
        technique = WarmStart(when=[1, 3])
        _, model = run(technique, epochs=5)
        assert [(plan.epoch, plan.decision["epoch"]) for plan in plans_of(model)] == [(1, 1), (3, 3)]
        context = Context(at="epoch", epoch=3, plans=plans_of(model))
        assert not technique.due(context)
        context.epoch = 1
        assert not technique.due(context)
        context.plans = ()
        assert technique.due(context)

    def test_an_evaluation_does_not_shrink(self):
        class Tested(Learner):
            def test_step(self, batch, index):
                pass

        model = Tested()
        old = values(model)
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            callbacks=[WarmStart()],
            enable_progress_bar=False,
        )
        trainer.test(model, DataLoader(TensorDataset(torch.zeros(2, 6), torch.zeros(2).long())), verbose=False)
        assert all(torch.equal(value, old[name]) for name, value in values(model).items())
        assert plans_of(model) == []

    def test_data_without_rounds_is_refused(self):
        with pytest.raises(UserError, match=r"warm_start.when: 'rounds' is not accepted with no datamodule"):
            pl.Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                callbacks=[WarmStart(when="rounds")],
            ).fit(BoringModel())

    def test_techniques_that_draw_weights_draw_the_fresh_ones(self):
        class Constant(Edit):
            technique = "constant_of_this_test"
            changes = frozenset({"values"})
            offers = frozenset({FRESH_WEIGHTS})

            def __init__(self):
                pass

            def decide(self, model, context):
                return {"value": 3.0}

            def initialise(self, model, decision, context):
                nn.init.constant_(model.net[0].weight, decision["value"])

        model = Learner()
        run(Constant(), WarmStart(shrink=0.0, perturb=0.5, when=[1]), model=model, epochs=2, limit_train_batches=1)
        start = model.starts[1][2]
        assert torch.equal(start["net.0.weight"], torch.full((8, 6), 1.5))
        assert start["net.2.weight"].std() > 0

    def test_beside_kappa_tune(self):
        class Ranks(Edit):
            technique = "ranks_of_this_test"
            offers = frozenset({RANKING})

        context = Context(techniques={"kappa_tune": Ranks(), "warm_start": WarmStart()})
        context.techniques["kappa_tune"].name = "kappa_tune"
        with pytest.raises(UserError, match=r"warm_start.shrink: 0.6 with perturb 0.1 is not accepted with kappa_tune"):
            WarmStart().check(Learner(), context)
        WarmStart(shrink=1, perturb=0).check(Learner(), context)
        WarmStart(force=True).check(Learner(), context)


class TestFiles:
    @pytest.mark.parametrize("kind", ["pt", "safetensors", "lightning", "module.", "model.", "inner"])
    def test_old_weights_come_from_a_file(self, tmp_path, kind, capsys):
        trainer, source = run(epochs=1)
        old = values(source)
        path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.ckpt")
        if kind == "safetensors":
            save_file(old, path)
        elif kind == "lightning":
            trainer.save_checkpoint(path)
        elif kind == "inner":  # of a plain net, whose names lack the prefix that the module puts before them
            torch.save({name.removeprefix("net."): value for name, value in old.items() if name[:4] == "net."}, path)
        else:
            torch.save({(kind if kind != "pt" else "") + name: value for name, value in old.items()}, path)
        model = Learner(with_own=kind != "inner")
        torch.manual_seed(5)
        fresh = values(Learner(with_own=kind != "inner"))
        run(WarmStart(str(path), 0.6, 0.1, seed=5), model=model)
        start = model.starts[0][2]
        assert start.keys() == fresh.keys()
        for name, value in start.items():
            assert torch.equal(value, 0.6 * old[name] + 0.1 * fresh[name])
        (plan,) = plans_of(model)
        assert plan.decision["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert plan.decision["loaded"] == list(fresh)
        assert "tensors loaded" in capsys.readouterr().err

    def test_what_does_not_fit_is_listed_tensor_by_tensor(self, tmp_path, capsys):
        state = Learner().state_dict()
        state["net.2.weight"], state["net.2.bias"] = torch.zeros(4, 8), torch.zeros(4)
        state["head.weight"] = torch.zeros(2)
        del state["own"]
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(UserError) as caught:
            edit(Learner(), WarmStart(str(tmp_path / "w.pt")))
        for line in (
            "own: missing in the file, 3 expected",
            "net.2.weight: 4x8 in the file, 3x8 in the model",
            "head.weight: 2 in the file, the model has no such tensor",
        ):
            assert line in str(caught.value)
        model = Learner()
        old = values(model)
        technique = WarmStart(str(tmp_path / "w.pt"), 0.5, 0.0, strict=False)
        plan = edit(model, technique)
        technique.report(model, plan, Context())
        said = capsys.readouterr().err
        for line in (
            "2 of the model's 5 tensors loaded",
            "net.2.weight  shape 4x8 -> 3x8: kept",
            "own           missing: kept",
            "head.weight   unexpected: not used",
        ):
            assert line in said
        assert plan.decision["tensors"] == ["net.0.weight", "net.0.bias"]  # what is new stays as it was drawn
        assert torch.equal(model.net[0].weight, 0.5 * state["net.0.weight"])
        assert torch.equal(model.net[2].weight, old["net.2.weight"])
        assert torch.equal(model.own, old["own"])

    def test_nothing_that_fits(self, tmp_path):
        torch.save({"a": torch.zeros(3), "b": torch.zeros(2)}, tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"nothing of .*w.pt fits Learner") as caught:
            edit(Learner(), WarmStart(str(tmp_path / "w.pt"), strict=False))
        assert "a: 3 in the file, the model has no such tensor" in str(caught.value)
        assert "net.0.weight: missing in the file, 8x6 expected" in str(caught.value)

    def test_prefixes(self, tmp_path):
        state = {f"student.{name}": value for name, value in Learner().state_dict().items()}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(UserError, match="nothing of"):
            edit(Learner(), WarmStart(str(tmp_path / "w.pt")))
        model = Learner()
        edit(model, WarmStart(str(tmp_path / "w.pt"), 1.0, 0.0, prefix="student."))
        assert torch.equal(model.own, state["student.own"])
        with pytest.raises(UserError, match=r"prefix: no tensor of the file starts with 'teacher.'; they are student"):
            edit(Learner(), WarmStart(str(tmp_path / "w.pt"), prefix="teacher."))
        both = {f"{p}.{name}": value for p in ("model", "module") for name, value in Learner().state_dict().items()}
        torch.save(both, tmp_path / "both.pt")
        with pytest.raises(
            UserError, match=r"match equally well with 'module.' dropped and with 'model.' dropped; give prefix"
        ):
            edit(Learner(), WarmStart(str(tmp_path / "both.pt"), strict=False))

    def test_weights_of_an_edited_structure_are_refused(self, tmp_path):
        class Wider(Edit):
            technique = "wider_of_this_test"
            changes = frozenset({"structure"})

        ledger = {"schema": 1, "plans": [Plan("wider_of_this_test", "wide", {"by": 2}).to_plain()]}
        torch.save({"state_dict": Learner().state_dict(), "editing": ledger}, tmp_path / "w.ckpt")
        with pytest.raises(UserError, match=r"edited by 'wide' \(wider_of_this_test\).*fold or export it first"):
            edit(Learner(), WarmStart(str(tmp_path / "w.ckpt")))
        same = Context(plans=[Plan("wider_of_this_test", "wide", {"by": 2})])
        assert WarmStart(str(tmp_path / "w.ckpt")).decide(Learner(), same)["loaded"]

    def test_missing_and_hostile_files(self, tmp_path):
        with pytest.raises(UserError, match=r"warm_start.checkpoint: none.pt not found"):
            edit(Learner(), WarmStart("none.pt"))
        torch.save({"state_dict": {"a": print}}, tmp_path / "w.pt")
        with pytest.raises(UserError, match="more than tensors"):
            edit(Learner(), WarmStart(str(tmp_path / "w.pt")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shrink": 1.2}, "^shrink: 1.2"),
        ({"perturb": -1}, "^perturb: -1"),
        ({"source": "fersh"}, "^source: 'fersh'"),
        ({"sigma": 0}, "^sigma: 0"),
        ({"when": "epoch"}, "^when: 'epoch'"),
        ({"when": [-1]}, r"^when: \[-1\]"),
        ({"when": "rounds", "checkpoint": "a.ckpt"}, "^when: 'rounds' is not accepted with a checkpoint"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        WarmStart(**settings)


def test_settings_are_plain():
    assert WarmStart(when=[2], seed=3).settings() == {
        "checkpoint": None,
        "shrink": 0.6,
        "perturb": 0.1,
        "source": "fresh",
        "sigma": 0.01,
        "when": [2],
        "include": None,
        "exclude": [],
        "strict": True,
        "prefix": None,
        "reset_buffers": True,
        "seed": 3,
        "force": False,
    }
