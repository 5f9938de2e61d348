from __future__ import annotations

import copy
import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import timm
import torch
from torch import nn

import framework
from callbacks.lora import LoRA, add_lora, disabled, lora_layers, merge, output_layers, unload
from framework.editing import Context, Edit, Plan, edit, ledger_of, undo
from framework.editing.ledger import trainable_names
from framework.errors import UserError


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5
    )


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2))


def disturb(model: nn.Module, adapter: str = "") -> None:
    """Gives every adapter an update that matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("lora_B" in name or "lora_embedding_B" in name) and adapter in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def out(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        result = model(x)
    return getattr(result, "logits", result)


X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(14).view(2, 7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=str,
)
def test_starts_as_the_base_then_disables_undoes_and_merges(options: dict[str, Any]) -> None:
    model = vit()
    base, keys = out(model, X), model.state_dict().keys()
    original = copy.deepcopy(model.state_dict())
    edit(model, LoRA(rank=4, **options))
    torch.testing.assert_close(out(model, X), base)
    disturb(model)
    changed = out(model, X)
    assert (changed - base).abs().max() > 0.01
    with disabled(model):
        assert torch.equal(out(model, X), base)
    assert torch.equal(out(model, X), changed)

    merged = framework.fold(copy.deepcopy(model))
    assert merged.state_dict().keys() == keys
    torch.testing.assert_close(out(merged, X), changed, atol=1e-5, rtol=1e-4)
    plain = vit()
    plain.load_state_dict(merged.state_dict())
    torch.testing.assert_close(out(plain, X), changed, atol=1e-5, rtol=1e-4)

    undo(model, "lora")
    assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())
    assert torch.equal(out(model, X), base)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_equals_peft_itself() -> None:
    from peft import LoraConfig, get_peft_model

    ours, theirs = vit(), vit()
    theirs.load_state_dict(ours.state_dict())
    edit(ours, LoRA(rank=3, alpha=9, target_modules=["qkv", "mlp.fc1"], trainable_modules=["head"]))
    config = LoraConfig(r=3, lora_alpha=9, target_modules=["qkv", "fc1"], modules_to_save=["head"])
    wrapped = get_peft_model(theirs, config)
    values = {
        name.replace(".lora.", ".default."): value for name, value in ours.state_dict().items() if "lora_" in name
    }
    result = wrapped.load_state_dict(
        {f"base_model.model.{name}": value for name, value in values.items()}, strict=False
    )
    assert not result.unexpected_keys
    disturb(ours)
    disturb(wrapped)
    torch.testing.assert_close(out(ours, X), out(wrapped, X))
    mine = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert mine == wrapped.get_nb_trainable_parameters()[0]


def test_trains_the_adapters_and_the_classifier_of_a_timm_model_only() -> None:
    model = vit()
    edit(model, LoRA(rank=2))
    names = trainable_names(model)
    assert {name for name in names if "lora_" not in name} == {"head.weight", "head.bias"}
    assert "head" not in lora_layers(model)
    assert len(lora_layers(model)) == 8
    assert output_layers(vit()) == ["head"]
    other = vit()
    edit(other, LoRA(rank=2, trainable_modules=["norm", "blocks.1.mlp.fc2"]))
    kept = {name for name in trainable_names(other) if "lora_" not in name}
    assert kept == {"norm.weight", "norm.bias", "blocks.1.mlp.fc2.weight", "blocks.1.mlp.fc2.bias"}
    assert "blocks.1.mlp.fc2" not in lora_layers(other)


def test_transformers_with_tied_embeddings(tmp_path: Any) -> None:
    from transformers import GPT2LMHeadModel

    model = gpt2()
    base = out(model, TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft would say that fan_in_fan_out does not fit
        edit(model, LoRA(rank=2))
    assert all(type(layer.get_base_layer()).__name__ == "Conv1D" for layer in lora_layers(model).values())
    assert len(lora_layers(model)) == 8
    assert model.lm_head.weight is model.transformer.wte.weight
    disturb(model)
    changed = out(model, TOKENS)
    assert not torch.equal(base, changed)
    framework.fold(model).save_pretrained(tmp_path)
    torch.testing.assert_close(out(GPT2LMHeadModel.from_pretrained(tmp_path), TOKENS), changed, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="lm_head is tied to another layer or adapted already"):
        edit(gpt2(), LoRA(target_modules=["lm_head"]))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv1 = nn.Embedding(20, 6), nn.Conv1d(6, 8, 3, padding=1)
        self.conv2, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(8, 3)
        self.inner = nn.ModuleDict({"fc": nn.Linear(3, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.embed(x).transpose(1, 2))
        return self.inner["fc"](self.fc(h.mean(-1))) + self.conv2(h.unsqueeze(1)).mean()


def test_embeddings_and_convolutions_by_choice_and_names_are_exact() -> None:
    model = Mixed()
    keys = model.state_dict().keys()
    edit(model, LoRA(rank=2, target_classes=["Embedding", "Conv1d", "Conv2d"]))
    assert [*lora_layers(model)] == ["embed", "conv1", "conv2"]
    disturb(model)
    changed = out(model, TOKENS)
    assert model.state_dict().keys() != keys
    torch.testing.assert_close(out(framework.fold(model), TOKENS), changed, atol=1e-5, rtol=1e-4)
    assert model.state_dict().keys() == keys
    only = Mixed()
    add_lora(only, ["fc"], rank=2)
    assert [*lora_layers(only)] == ["fc"], "a name is not the end of a longer one"


def test_convolutions_where_there_is_no_linear_layer_but_the_output() -> None:
    model = timm.create_model("resnet10t", num_classes=3, in_chans=1, channels=[8, 8, 8, 8], stem_width=8)
    edit(model, LoRA(rank=2))
    assert all("conv" in name or "downsample" in name for name in lora_layers(model))
    assert {n for n in trainable_names(model) if "lora_" not in n} == {"fc.weight", "fc.bias"}
    x = torch.randn(2, 1, 32, 32)
    disturb(model)
    changed = out(model, x)
    torch.testing.assert_close(out(framework.fold(model), x), changed, atol=1e-4, rtol=1e-3)


def test_an_initialisation_that_changes_the_base_merges_and_is_not_undone() -> None:
    model = vit()
    base = out(model, X)
    edit(model, LoRA(rank=2, init_lora_weights="pissa"))
    torch.testing.assert_close(out(model, X), base, atol=1e-4, rtol=1e-3)
    twin = vit()
    framework.replay(twin, {"editing": ledger_of(model).to_plain()})
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(out(twin, X), out(model, X))
    assert trainable_names(twin) == trainable_names(model)
    with pytest.raises(UserError, match="changed the layers' weights"):
        undo(model, "lora")
    torch.testing.assert_close(out(framework.fold(model), X), base, atol=1e-4, rtol=1e-3)


def test_two_sets_of_adapters_come_off_one_by_one() -> None:
    model = vit()
    base = out(model, X)
    first, second = LoRA(rank=2, target_modules=["qkv"]), LoRA(rank=3, target_modules=["fc1"])
    second.name = "second"
    edit(model, first)
    disturb(model)
    one = out(model, X)
    edit(model, second)
    disturb(model, ".second.")
    assert not torch.equal(out(model, X), one)
    undo(model, "second")
    assert torch.equal(out(model, X), one)
    undo(model, "lora")
    assert torch.equal(out(model, X), base)
    again = LoRA(target_modules=["qkv"])
    again.name = "again"
    edit(model, first)
    with pytest.raises(UserError, match=r"again.target_modules: .*qkv is tied to another layer or adapted already"):
        edit(model, again)


def test_takes_the_layers_that_another_technique_chose() -> None:
    class ToyChooser(Edit):
        pass

    chosen = Plan("toy_chooser", "chooser", {"target_modules": ["blocks.0.mlp.fc1"]})
    decision = LoRA().decide(vit(), Context(plans=[chosen]))
    assert decision["targets"] == ["blocks.0.mlp.fc1"]
    with pytest.raises(UserError, match="is not accepted with chooser, which chooses"):
        LoRA(target_modules=["qkv"]).decide(vit(), Context(plans=[chosen]))
    full = Plan("kappa_tune", "kappa_tune", {"mode": "full", "tensors": ["norm.weight", "blocks.0.attn.qkv.weight"]})
    with pytest.raises(UserError, match=r"both train blocks.0.attn.qkv.weight"):
        LoRA().decide(vit(), Context(plans=[full]))
    decision = LoRA(exclude_modules=["blocks.0.attn.qkv"]).decide(vit(), Context(plans=[full]))
    assert "norm.weight" in decision["trainable"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "^rank: 0 is not accepted"),
        ({"dropout": 1.0}, "^dropout: 1.0 is not accepted"),
        ({"target_classes": ["Lineer"]}, "^target_classes: 'Lineer' is not one of Linear, "),
        ({"init_lora_weights": "pisa"}, "^init_lora_weights: 'pisa' is not accepted"),
        ({"init_lora_weights": "orthogonal", "rank": 3}, "^rank: 3 is not accepted"),
    ],
)
def test_settings_that_are_not_accepted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LoRA(**options)


def test_names_that_match_nothing_list_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"lora.target_modules: 'attn.qvk' names nothing in the model; nearest: (\S+, ){4}"
    ):
        edit(vit(), LoRA(target_modules=["attn.qvk"]))
    with pytest.raises(UserError, match=r"lora.trainable_modules: 'haed' names nothing in the model; nearest: head"):
        edit(vit(), LoRA(trainable_modules=["haed"]))
    with pytest.raises(UserError, match="no layer is left to adapt; accepted: Linear"):
        edit(nn.Sequential(nn.LayerNorm(3)), LoRA())


def test_functions_alone() -> None:
    model = vit()
    base = out(model, X)
    add_lora(model, ["blocks.0.attn.qkv"], rank=2)
    assert all(parameter.requires_grad for parameter in model.parameters())
    disturb(model)
    assert not torch.equal(out(model, X), base)
    merged = merge(copy.deepcopy(model))
    torch.testing.assert_close(out(merged, X), out(model, X), atol=1e-5, rtol=1e-4)
    assert torch.equal(out(unload(model), X), base)


@pytest.mark.parametrize("padded", [False, True])
def test_adapters_count_in_torchs_own_encoder_in_evaluation(padded: bool) -> None:
    """It evaluates on its layers' bare weights where it can."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    x = torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 3 + [True] * 2, [False] * 5]) if padded else None
    keep = slice(None) if mask is None else ~mask
    with torch.no_grad():
        base = model.eval()(x, src_key_padding_mask=mask)[keep]
        add_lora(model, [f"layers.{i}.linear{j}" for i in range(2) for j in (1, 2)], rank=4, init=False)
        trained = model.train()(x, src_key_padding_mask=mask)[keep]
        assert (trained - base).abs().max() > 0.1
        for same in (model.eval(), copy.deepcopy(model), merge(copy.deepcopy(model))):
            torch.testing.assert_close(same.eval()(x, src_key_padding_mask=mask)[keep], trained, rtol=0, atol=1e-4)
        assert not any(part._forward_pre_hooks for part in unload(model).modules())
        torch.testing.assert_close(model(x, src_key_padding_mask=mask)[keep], base)


def test_a_model_that_reads_weights_and_calls_no_layer_is_refused() -> None:
    model = nn.Linear(3, 1)
    technique = LoRA()
    with pytest.raises(UserError, match=r"lora.target_modules: the loss does not depend on the adapters"):
        technique.on_before_backward(None, None, model.requires_grad_(False)(torch.ones(2, 3)).sum())  # type: ignore[arg-type]


def test_adapters_that_the_model_goes_around_are_told_of() -> None:
    class Around(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.read = nn.Linear(4, 4), nn.Linear(4, 4)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return (self.used(batch[0]) @ self.read.weight.T).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 4)))
    silent: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = pl.Trainer(max_epochs=1, logger=False, accelerator="cpu", callbacks=[LoRA(rank=2)], **silent)
    with pytest.warns(UserWarning, match=r"lora: 1 adapters had no gradient \(read\)"):
        trainer.fit(Around(), loader)
