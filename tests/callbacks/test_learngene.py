"""The technique: what it writes into any module's transformer, in which order, and what it refuses."""

import hashlib

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from callbacks.gg_init import GGInit
from callbacks.kappa_tune import KappaTune
from callbacks.learngene import Learngene
from callbacks.lora import LoRA
from callbacks.mixture_growth import MixtureGrowth
from callbacks.warm_start import WarmStart
from callbacks.winner import Winner
from framework.checkpoints.learngene_file import save_learngene
from framework.editing import Context, edit
from framework.editing.order import resolve
from framework.errors import UserError
from framework.functional.learngene import LearngeneTensors, expand, extract_learngene


class Net(nn.Module):
    """A transformer within a module, as methods have it."""

    def __init__(self, depth=3, seed=0, **changed):
        super().__init__()
        torch.manual_seed(seed)
        sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5, "embed_dim": 16, "num_heads": 2}
        self.backbone = VisionTransformer(**{**sizes, **changed}, depth=depth)

    def forward(self, x):
        return self.backbone(x)


@pytest.fixture
def file(tmp_path):
    """Of a stock transformer with a class token, by least squares over its layers."""
    return save_learngene(extract_learngene(Net(4, seed=1)), tmp_path / "learngene.safetensors")


def test_every_tensor_gets_its_expansion(file):
    model, expected = Net(5), expand(extract_learngene(Net(4, seed=1)), 5)
    plan = edit(model, Learngene(str(file)))
    state = model.backbone.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert plan.decision == {
        "path": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "trained_depth": 4,
        "tensors": [*model.state_dict()],
        "kept": [],
    }


def test_a_folder_stands_for_the_file_in_it(file):
    model = Net(2)
    plan = edit(model, Learngene(str(file.parent)))
    assert plan.decision["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_head_of_other_classes_keeps_its_values(file):
    model = Net(2, num_classes=7)
    before = model.backbone.head.weight.detach().clone()
    technique = Learngene(str(file))
    plan = edit(model, technique)
    assert plan.decision["kept"] == ["backbone.head.weight", "backbone.head.bias"]
    assert torch.equal(model.backbone.head.weight, before)
    technique.report(model, plan, Context())
    with pytest.raises(UserError, match=r"head.weight: 5x16 in the file, 7x16 in the model"):
        edit(Net(2, num_classes=7), Learngene(str(file), head="strict"))


def test_a_module_that_makes_one_is_asked_where_no_file_is_given():
    class Maker(Net):
        def make_learngene(self, data, trial=False):
            self.asked = (data, trial)
            return LearngeneTensors(own.base, own.slope, own.shared, own.heads, own.depth)

    own, model = extract_learngene(Net(4, seed=1)), Maker(2)
    plan = edit(model, Learngene())
    assert model.asked == (None, False)
    assert (plan.decision["path"], plan.decision["sha256"]) == (None, None)
    assert torch.equal(model.backbone.pos_embed, own.shared["pos_embed"])
    with pytest.raises(UserError, match=r"learngene.path: None is not accepted with Net, which trains none"):
        edit(Net(), Learngene())


def test_it_comes_after_draws_and_before_noise_shrinking_ranking_and_adapters(file):
    others = {"lora": LoRA, "kappa_tune": KappaTune, "warm_start": WarmStart, "winner": Winner}
    asked = {**others, "learngene": Learngene, "gg_init": GGInit}
    found = resolve(asked)
    assert found[:2] == ["gg_init", "learngene"]


def test_it_needs_plain_layers(file):
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[Learngene(str(file)), MixtureGrowth(member_epochs=[1, 1])],
    )
    with pytest.raises(
        UserError, match="learngene needs the model's plain layers at the start, and mixture_growth has"
    ):
        trainer.fit(BoringModel())


def test_adapters_on_an_expansion_leave_its_output_and_its_values(file):
    model, plain = Net(3), Net(3)
    x = torch.randn(2, 1, 8, 8)
    edit(plain, Learngene(str(file)))
    edit(model, Learngene(str(file)))
    edit(model, LoRA(rank=2))
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))
    base = model.backbone.blocks[1].attn.qkv.base_layer.weight
    assert torch.equal(base, plain.backbone.blocks[1].attn.qkv.weight)
    assert not base.requires_grad


def test_shrinking_an_expansion(file):
    model, plain = Net(3), Net(3)
    edit(plain, Learngene(str(file)))
    edit(model, Learngene(str(file)))
    edit(model, WarmStart(shrink=0.5, perturb=0.0))
    for name, value in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), 0.5 * value)


def test_what_is_refused(file):
    with pytest.raises(UserError, match=r"^head: 'no' is not one of if_fits, skip, strict"):
        Learngene(head="no")
    with pytest.raises(UserError, match=r"learngene.path: nowhere.safetensors not found"):
        edit(Net(), Learngene("nowhere.safetensors"))
    with pytest.raises(UserError, match="one vision transformer"):
        edit(nn.Linear(2, 2), Learngene(str(file)))
    with pytest.raises(UserError, match="was made with 2 attention heads, the model has 4"):
        edit(Net(num_heads=4), Learngene(str(file)))


def test_settings_are_plain():
    assert Learngene("a.safetensors", "skip").settings() == {"path": "a.safetensors", "head": "skip"}
