"""KappaTune: what is ranked, chosen, frozen and handed to LoRA, alone and in a Trainer."""

import json
import math
import os
import subprocess
import sys
import warnings

import lightning.pytorch as pl
import pytest
import torch
from checkout import ROOT
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import callbacks.kappa_tune as kt
from callbacks.gg_init import GGInit
from callbacks.kappa_tune import KappaTune, candidates, freeze_all_but, rank_by_condition, select
from callbacks.warm_start import WarmStart
from callbacks.winner import Winner
from framework.editing import Context, Edit, Plan, edit
from framework.editing.capabilities import ADAPTERS
from framework.errors import UserError


def linears():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 8))


class Experts(nn.Module):
    """A linear layer, a stack of experts, a position embedding, a class token, norms."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(6, 8)
        self.mlp = nn.Module()
        self.mlp.up_proj = nn.Parameter(torch.randn(4, 8, 16))
        self.pos = nn.Parameter(torch.randn(1, 5, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.kernel = nn.Conv1d(8, 6, 3)


class Fake(Edit):
    """Stands in for the technique lora."""

    technique = "lora"
    offers = frozenset({ADAPTERS})

    def __init__(self, layers=None):
        self.layers = layers

    def candidates(self, model):
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        return linear if self.layers is None else self.layers


def decide(model, lora=None, plans=(), **settings):
    techniques = {} if lora is None else {"lora": lora}
    return KappaTune(**settings).decide(model, Context(techniques=techniques, plans=plans))


def test_which_tensors_are_ranked_and_how_they_are_read():
    model = Experts()
    found = candidates(model)
    assert {name: tuple(weight.shape) for name, weight in found.items()} == {
        "pos": (5, 8),
        "embed.weight": (8, 6),
        "mlp.up_proj": (4, 8, 16),
        "kernel.weight": (6, 24),
    }
    rows = {row["name"]: row for row in rank_by_condition(found)}
    assert rows["mlp.up_proj"]["kappa"] == pytest.approx(
        float(torch.linalg.cond(model.mlp.up_proj.detach()).mean()), rel=1e-5
    )
    assert rows["mlp.up_proj"]["parameters"] == 4 * 8 * 16
    assert rows["kernel.weight"]["kappa"] == pytest.approx(
        float(torch.linalg.cond(model.kernel.weight.detach().flatten(1))), rel=1e-5
    )
    assert set(candidates(model, max_dim=8)) == {"pos", "embed.weight"}
    model.pos.requires_grad_(False)
    assert "pos" not in candidates(model)


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert list(candidates(model)) == ["0.weight"]
    freeze_all_but(model, ["1.weight"])
    assert model[0].weight.requires_grad
    assert not model[0].bias.requires_grad


def test_patterns_name_parameters_or_modules():
    model = linears()
    assert list(candidates(model, include=["2"])) == ["2.weight"]
    assert list(candidates(model, include=["*.weight"], exclude=["0"])) == ["2.weight", "4.weight"]
    with pytest.raises(UserError, match=r"kappa_tune\.include: 'head' names nothing.*nearest"):
        candidates(model, include=["head"])
    with pytest.raises(UserError, match="no weight is left"):
        candidates(model, exclude=["*"])
    with pytest.raises(UserError, match="no weight is left"):
        candidates(nn.BatchNorm1d(3))


def test_selection_equals_pefts():
    import peft.helpers

    selector = getattr(peft.helpers, "KappaTuneSelector", None)
    if selector is None:
        pytest.skip("this peft is older than its KappaTuneSelector")
    model = linears()
    theirs = selector(model, show_progress=False)
    ranking = rank_by_condition(candidates(model))
    for count in (1, 3, 99):
        ours = [name.removesuffix(".weight") for name in select(ranking, num_tensors=count)]
        assert ours == theirs.get_best_targets(num_modules=count)
    for share in (0.01, 0.4, 0.7, 1.0):
        assert decide(model, Fake(), fraction=share)["target_modules"] == theirs.get_best_targets(top_p=share)
    threshold = ranking[1]["kappa"] * 1.001
    chosen = [name.removesuffix(".weight") for name in select(ranking, threshold=threshold)]
    assert chosen == theirs.get_best_targets(threshold=threshold)
    moe = Experts()
    theirs = selector(moe, show_progress=False)
    decision = decide(moe, Fake(["embed"]), fraction=1.0)
    assert decision["target_parameters"] == theirs.get_best_target_parameters(top_p=1.0) == ["mlp.up_proj"]
    assert decision["target_modules"] == theirs.get_best_targets(top_p=1.0) == ["embed"]


def rows(**kappas):
    return [{"name": name, "score": kappa, "parameters": 10 * i + 10} for i, (name, kappa) in enumerate(kappas.items())]


def test_budgets_orders_and_ties():
    table = rows(c=2.0, b=5.0, a=2.0, d=math.inf)
    assert select(table, num_tensors=3) == ["a", "c", "b"]
    assert select(table, num_tensors=2, order="highest") == ["d", "b"]
    assert select(table, fraction=0.5) == ["a", "c"]
    assert select(table, fraction=0.01) == ["a"]
    assert select(table, threshold=2.0) == ["a", "c"]
    assert select(table, num_parameters=40) == ["a", "c"]
    assert select(table, num_parameters=59) == ["a", "c"]
    assert select(table, num_parameters=60) == ["a", "c", "b"]
    random = [tuple(select(table, num_tensors=4, order="random", seed=seed)) for seed in range(20)]
    assert len(set(random)) > 5
    assert random[3] == tuple(select(table[::-1], num_tensors=4, order="random", seed=3))
    with pytest.raises(UserError, match="lowest score is 2"):
        select(table, threshold=1.0)
    with pytest.raises(UserError, match="too few for a"):
        select(table, num_parameters=5)


def test_a_rank_deficient_weight_comes_last_and_never_crashes():
    model = linears()
    with torch.no_grad():
        model[0].weight[:, 1] = model[0].weight[:, 0]
        model[4].weight.zero_()
    ranking = rank_by_condition(candidates(model))
    assert [row["name"] for row in ranking] == ["2.weight", "0.weight", "4.weight"]
    assert ranking[1]["kappa"] > 1e7
    json.dumps(ranking)


def test_normalised_by_shape_a_random_square_is_no_worse_than_a_rectangle():
    torch.manual_seed(0)
    weights = {"square": torch.randn(80, 80), "wide": torch.randn(20, 80)}
    plain, shaped = rank_by_condition(weights), rank_by_condition(weights, normalise="mp")
    assert plain[1]["name"] == "square"
    assert plain[1]["score"] > 20
    assert all(0.2 < row["score"] < 8 for row in shaped)


def test_the_cache_is_keyed_by_content(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "kappa.json"
    model = linears()
    first = rank_by_condition(candidates(model), cache=path)
    asked = []
    measure = kt.condition_numbers
    monkeypatch.setattr(kt, "condition_numbers", lambda weights: asked.append(list(weights)) or measure(weights))
    assert rank_by_condition(candidates(model), cache=path) == first
    with torch.no_grad():
        model[2].weight[0, 0] += 1
    changed = rank_by_condition(candidates(model), cache=path)
    assert asked == [[], ["2.weight"]]
    assert changed == rank_by_condition(candidates(model))
    path.write_text("[1, 2")
    with pytest.raises(UserError, match=r"kappa_tune\.cache: .*kappa\.json is not a cache"):
        rank_by_condition(candidates(model), cache=path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exactly one of num_tensors, num_parameters, fraction, threshold is needed; given: none"),
        ({"num_tensors": 1, "fraction": 0.5}, "given: num_tensors, fraction"),
        ({"num_tensors": 0}, r"^num_tensors: 0 is not accepted"),
        ({"fraction": 1.5}, "at most 1"),
        ({"threshold": math.inf}, "not accepted"),
        ({"fraction": 0.5, "mode": "adapter"}, "one of auto, full, lora"),
        ({"fraction": 0.5, "order": "best"}, "one of lowest, highest, random"),
        ({"fraction": 0.5, "normalise": "yes"}, "one of none, mp"),
        ({"fraction": 0.5, "seed": -1}, "seed: -1 is not accepted; at least 0"),
        ({"fraction": 0.5, "max_dim": 0}, "max_dim: 0 is not accepted; at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        KappaTune(**settings)


def test_the_decision_is_plain_and_apply_needs_nothing_else():
    model = linears()
    technique = KappaTune(num_tensors=1, train_biases=True)
    plan = edit(model, technique)
    again = Plan.from_plain(json.loads(json.dumps(plan.to_plain())))
    chosen = again.decision["tensors"][0]
    expected = sorted([chosen, chosen.replace("weight", "bias")])
    assert sorted(plan.trainable) == expected
    other = linears()
    for _ in range(2):
        KappaTune.apply(other, again.decision)
        assert sorted(n for n, p in other.named_parameters() if p.requires_grad) == expected
    assert [row["selected"] for row in again.decision["table"]] == [True, False, False]
    with pytest.raises(UserError, match="names nothing"):
        KappaTune.apply(nn.Linear(2, 2), again.decision)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(4), "mlp": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))})
            for _ in range(2)
        )
        self.head = nn.Linear(4, 3)


def test_norms_around_what_is_chosen_and_whole_modules():
    model = Blocks()
    decision = decide(model, num_tensors=1, include=["blocks.1.mlp.0"], train_norms=True, trainable_modules=["head"])
    assert sorted(decision["trainable"]) == ["blocks.1.norm.bias", "blocks.1.norm.weight", "head.bias", "head.weight"]
    assert decision["tensors"] == ["blocks.1.mlp.0.weight"]
    everything = decide(model, fraction=1.0, trainable_modules=["head"])
    assert "head.weight" not in {row["name"] for row in everything["table"]}
    with pytest.raises(UserError, match=r"kappa_tune\.trainable_modules: 'haed' names nothing.*nearest: head"):
        decide(model, num_tensors=1, trainable_modules=["haed"])


def test_lora_mode_offers_layers_and_changes_nothing():
    model = Blocks()
    decision = decide(model, Fake(["head", "blocks.0.mlp.0", "blocks.0.mlp.1"]), num_tensors=2)
    assert decision["mode"] == "lora"
    assert len(decision["table"]) == 3
    assert decision["target_modules"] == [name.removesuffix(".weight") for name in decision["tensors"]]
    assert decision["target_parameters"] is None
    KappaTune.apply(model, decision)
    assert all(p.requires_grad for p in model.parameters())
    assert decide(model, Fake(), num_tensors=2, mode="full")["target_modules"] is None
    with pytest.raises(UserError, match="without the technique lora"):
        decide(model, num_tensors=2, mode="lora")
    with pytest.raises(UserError, match=r"techniques\.lora\.trainable_modules"):
        decide(model, Fake(), num_tensors=2, trainable_modules=["head"])
    with pytest.raises(UserError, match="no weight is left"):
        decide(model, Fake([]), num_tensors=2)


def test_fresh_weights_are_warned_of():
    techniques = {"gg_init": GGInit(), "winner": Winner(), "warm_start": WarmStart("old.pt", shrink=1, perturb=0)}

    def decide(*done):
        plans = [Plan(name, name) for name in done]
        return KappaTune(num_tensors=1).decide(linears(), Context(techniques=techniques, plans=plans))

    for done in (("gg_init",), ("warm_start", "gg_init"), ("gg_init", "winner")):
        with pytest.warns(UserWarning, match="gg_init has drawn fresh weights: they contain nothing learnt"):
            decide(*done)
    with pytest.warns(UserWarning, match="winner has added noise to weights: they contain nothing learnt"):
        decide("gg_init", "warm_start", "winner")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decide("gg_init", "warm_start")


SCRIPT = """
import sys, torch
from torch import nn
sys.path.insert(0, {root!r})
from callbacks.kappa_tune import candidates, rank_by_condition, select
torch.manual_seed(0)
model = nn.ModuleDict({{name: nn.Linear(6, 6) for name in "zebra apple mango kiwi plum fig".split()}})
for layer in list(model.values())[::2]:
    layer.weight.data.copy_(torch.eye(6))
table = rank_by_condition(candidates(model))
print([select(table, num_tensors=4, order=order) for order in ("lowest", "highest", "random")])
"""


@pytest.mark.slow
def test_the_choice_does_not_depend_on_the_hash_seed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = SCRIPT.format(root=str(ROOT))
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "7" if os.environ.get("PYTHONHASHSEED") != "7" else "8"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    exec(script, {})  # this process has another hash seed
    assert capsys.readouterr().out == other
    assert "apple" in other


class Net(BoringModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2)
        )

    def loss_of(self, batch):
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def training_step(self, batch, index):
        return self.loss_of(batch)

    def validation_step(self, batch, index):
        self.seen = [module.training for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        return self.loss_of(batch)

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)


def fit(folder, technique, model=None, ckpt_path=None, epochs=2):
    torch.manual_seed(1)
    loader = DataLoader(TensorDataset(torch.randn(12, 1, 6, 6), torch.arange(12) % 2), 4)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[technique], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    model = model or Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.fit(model, loader, loader, ckpt_path=ckpt_path)
    return trainer, model, before


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("stats", [True, False])
def test_after_a_fit_only_what_was_chosen_has_changed(tmp_path, capsys, stats):
    trainer, model, before = fit(tmp_path, KappaTune(num_tensors=1, exclude=["layer.5"], freeze_bn_stats=stats))
    (chosen,) = [name for name, p in model.named_parameters() if p.requires_grad]
    statistics = {"layer.1.running_mean", "layer.1.running_var", "layer.1.num_batches_tracked"}
    assert changed(model, before) == {chosen} | (set() if stats else statistics)
    (group,) = trainer.optimizers[0].param_groups
    assert [p is model.get_parameter(chosen) for p in group["params"]] == [True]
    assert len(trainer.optimizers[0].state) == 1
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == model.get_parameter(chosen).numel()
    assert model.seen == [False]
    said = capsys.readouterr().err
    assert "kappa_tune: 1 of 2 weights trained" in said
    assert "κ/κ_MP" in said
    lines = (tmp_path / "kappa_tune.csv").read_text().splitlines()
    assert lines[0].startswith("name,shape,matrices,parameters,kappa,kappa_mp")
    assert len(lines) == 3
    assert (tmp_path / "figures" / "kappa_tune.png").stat().st_size > 5000


def test_statistics_stay_frozen_after_a_resume_and_against_train_calls(tmp_path):
    class Loud(Net):
        def on_train_batch_start(self, batch, index):
            self.train()  # as a careless module might; the callback's hook has run before, the next batch's sets it right

    settings = {"num_tensors": 1, "exclude": ["layer.5"], "freeze_bn_stats": True}
    trainer, _, _ = fit(tmp_path, KappaTune(**settings))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():  # other weights: what is chosen must come from the checkpoint
            parameter.normal_()
    _, resumed, _ = fit(tmp_path, KappaTune(**settings), model, tmp_path / "a.ckpt", epochs=4)
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    moved = changed(resumed, state)
    assert moved == {name for name, p in resumed.named_parameters() if p.requires_grad}
    assert len(moved) == 1


def test_a_trained_batch_norm_keeps_its_statistics_moving(tmp_path):
    technique = KappaTune(num_tensors=1, include=["layer.0"], train_norms=True, freeze_bn_stats=True)
    _, model, before = fit(tmp_path, technique)
    assert {"layer.1.weight", "layer.1.running_mean", "layer.0.weight"} <= changed(model, before)


def test_the_figure_shows_both_numbers_and_the_choice():
    table = [
        {"name": f"net.{i}.weight", "kappa": kappa, "kappa_mp": 3.0, "selected": i < 20}
        for i, kappa in enumerate([*range(2, 60), math.inf])
    ]
    figure = kt.table_figure(table)
    left, right = figure.axes
    assert len(left.patches) == len(right.patches) == 40
    assert {"∞"} <= {text.get_text() for text in left.texts}
    assert left.get_yticklabels()[0].get_text() == "0"
