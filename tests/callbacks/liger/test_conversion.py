"""Conversion: nothing is added, removed or renamed; equal where it must be; decoding; transformers' models; undo."""

from __future__ import annotations

import copy
import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import framework
from callbacks.liger import Liger, attentions, converted, disabled, linearize, linearize_as_recorded, restore
from callbacks.liger.gates import KINDS
from callbacks.lora import LoRA, add_lora
from datamodules.sequence.tokens import TokenData
from framework.editing import Context, edit, undo
from framework.errors import UserError
from modules.finetuning.causal_lm import CausalLM
from modules.sequence.decoder import state_bytes
from modules.sequence.transformer import TransformerLM

HF = ("llama", "mistral", "qwen2", "qwen3")
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def difference(a, b):
    return float((a - b).detach().abs().max())


def ours(kv_heads=None, **settings):
    torch.manual_seed(0)
    return TransformerLM(64, 32, 2, 4, kv_heads, init_std=0.2, **settings).eval()


def theirs(kind, implementation="sdpa"):
    config = AutoConfig.for_model(kind, **SIZES)
    if kind == "qwen3":
        config.head_dim = 16  # other than the width over the heads
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms that are not trivial
            nn.init.normal_(parameter, 1.0, 0.2)
    return model


def logits(model, tokens, **options):
    with torch.no_grad():
        output = model(tokens, **options)
    return getattr(output, "logits", output)


def tokens(length, rows=2, vocabulary=64):
    return torch.randint(1, vocabulary, (rows, length), generator=torch.Generator().manual_seed(length))


# our own


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("variant", KINDS)
def test_names_and_shapes_stay_and_a_full_window_is_the_base(variant, kv_heads):
    model = ours(kv_heads)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    inputs = tokens(40)
    expected = logits(model, inputs)
    linearize(model, variant, window=40, alpha=0, beta=1)
    assert difference(logits(model, inputs), expected) < 1e-5
    restore(model)
    linearize(model, variant, window=8, slots=8)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    model.load_state_dict(ours(kv_heads).state_dict(), strict=True)
    assert difference(logits(model, inputs), expected) > 0.01
    with disabled(model):
        assert torch.equal(logits(model, inputs), expected)
    assert torch.equal(logits(restore(model), inputs), expected)
    assert not converted(model)


@pytest.mark.parametrize("variant", KINDS)
def test_decoding_is_the_forward_pass_and_its_state_stays_small(variant):
    model = linearize(ours(2), variant, window=16, slots=8)
    inputs = tokens(200)
    whole = logits(model, inputs)
    with torch.no_grad():
        first, state = model.extend(inputs[:, :120])
        sizes, parts = [state_bytes(state)], [first]
        for t in range(120, 200):
            output, state = model.extend(inputs[:, t : t + 1], state)
            parts.append(output)
            sizes.append(state_bytes(state))
    assert difference(torch.cat(parts, 1), whole) < 1e-5 * max(1.0, float(whole.abs().max()))
    memory = 8 * 16 if variant == "gsa" else 8 * 8
    assert set(sizes) == {2 * 4 * 2 * 2 * (memory + 2 * 15 * 8)}  # layers, bytes, rows, kv heads
    _, state = model.extend(inputs[:, :1])
    assert state_bytes(state) < sizes[0]


def test_generate_works():
    model = linearize(ours(generation={"max_new_tokens": 12}), window=8)
    prompt, added = model.generate(tokens(20))
    together = torch.cat([prompt, added], 1)
    greedy = logits(model, together)[:, 19:-1].argmax(-1)
    assert torch.equal(added, greedy)


def test_padding_is_not_seen():
    model = linearize(ours(2), window=8)
    inputs = tokens(30)
    padded = torch.cat([torch.zeros(2, 6, dtype=torch.int64), inputs], 1)
    mask = torch.ones(2, 36, dtype=torch.int64)
    mask[:, :6] = 0
    assert (
        difference(logits(model, padded, attention_mask=mask)[:, 6:], logits(model, inputs)) < 2e-4
    )  # rotated further
    after = torch.cat([inputs, torch.zeros(2, 6, dtype=torch.int64)], 1)
    assert difference(logits(model, after, attention_mask=mask.flip(1))[:, :30], logits(model, inputs)) < 1e-5


def test_every_so_many_stays():
    model = TransformerLM(64, 32, 8, 4)
    linearize(model, hybrid_every=4)
    kinds = [type(block.mixer).__name__ for block in model.decoder.blocks]
    assert kinds == (["LigerSoftmaxAttention"] * 3 + ["SoftmaxAttention"]) * 2
    model = linearize(TransformerLM(64, 32, 4, 4), layers=["blocks.1.mixer", "blocks.3.*"])
    assert [name.split(".")[2] for name in converted(model)] == ["1", "3"]


def test_gate_projection_is_one_parameter_a_layer():
    model = ours(2)
    before = set(model.state_dict())
    linearize(model, gate_projection=True, window=8)
    assert set(model.state_dict()) - before == {f"decoder.blocks.{i}.mixer.gate_proj.weight" for i in (0, 1)}
    logits_ = model(tokens(20))
    gradient = torch.autograd.grad(logits_.square().sum(), model.decoder.blocks[0].mixer.gate_proj.weight)[0]
    assert float(gradient.abs().max()) > 0
    assert set(restore(model).state_dict()) == before


def test_copies_and_a_second_conversion():
    model = linearize(ours(), window=8)
    inputs = tokens(20)
    expected = logits(model, inputs)
    twin = copy.deepcopy(model)
    restore(model)
    assert torch.equal(logits(twin, inputs), expected)
    with pytest.raises(UserError, match="the 2 attention layers are linearised already"):
        linearize(twin)


def test_what_cannot_be_converted_is_named():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 1)
    with pytest.raises(UserError, match=r"no attention that can be linearised.*Llama.*found: MultiheadAttention"):
        linearize(encoder)
    with pytest.raises(UserError, match=r"liger.layers: 'mixr' names nothing"):
        linearize(ours(), layers=["mixr"])
    with pytest.raises(UserError, match=r"liger.hybrid_every: 1 is not accepted"):
        linearize(ours(), hybrid_every=1)
    assert attentions(encoder) == []


def test_lora_with_b_at_zero_changes_nothing_and_alone_gets_gradients():
    model = linearize(ours(2), window=8)
    inputs = tokens(20)
    expected = logits(model, inputs)
    rank, width, kv = 8, 32, 16
    for names, formula in (
        (("q_proj", "k_proj", "v_proj"), 2 * rank * ((width + width) + 2 * (width + kv))),
        (("q_proj", "k_proj", "v_proj", "o_proj"), 2 * rank * (2 * (width + width) + 2 * (width + kv))),
    ):
        adapted = copy.deepcopy(model)
        edit(adapted, LoRA(rank=rank, alpha=8, target_modules=list(names), trainable_modules=[]), Context())
        assert torch.equal(logits(adapted, inputs), expected)
        trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        assert all(".lora_" in name for name in trained)
        assert sum(p.numel() for p in trained.values()) == formula
        adapted(inputs).square().sum().backward()
        assert all((p.grad is not None) == (name in trained) for name, p in adapted.named_parameters())
        assert all(float(p.grad.abs().max()) > 0 for name, p in trained.items() if ".lora_B." in name)


def test_the_papers_share_of_trained_parameters():
    """0.085 % of Llama-3-8B is q, k, v and o; q, k, v alone, as its file has it, are 0.059 %."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linearize(model)
    total = sum(p.numel() for p in model.parameters())
    assert total == 8_030_261_248
    for names, count, share in ((("q", "k", "v", "o"), 6_815_744, 0.085), (("q", "k", "v"), 4_718_592, 0.059)):
        layers = [model.model.layers[0].self_attn.get_submodule(f"{name}_proj") for name in names]
        trained = 32 * sum(8 * (layer.in_features + layer.out_features) for layer in layers)
        assert trained == count
        assert round(100 * count / total, 3) == share


# transformers' own


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", HF)
def test_transformers_models(kind, implementation):
    model = theirs(kind, implementation)
    names = model.state_dict().keys()
    inputs = tokens(60, vocabulary=96)
    expected = logits(model, inputs, use_cache=False)
    before = model.generate(inputs[:, :20], max_new_tokens=20, do_sample=False)
    linearize(model, window=60, alpha=0, beta=1)
    assert difference(logits(model, inputs, use_cache=False), expected) < 1e-5 * float(expected.abs().max())
    restore(model)
    linearize(model, window=8, hybrid_every=3)
    assert model.state_dict().keys() == names
    assert len(converted(model)) == 2
    whole = logits(model, inputs, use_cache=False)

    with torch.no_grad():
        output = model(inputs[:, :30], use_cache=True)
        parts = [output.logits]
        for t in range(30, 60):
            output = model(inputs[:, t : t + 1], past_key_values=output.past_key_values, use_cache=True)
            parts.append(output.logits)
    assert difference(torch.cat(parts, 1), whole) < 1e-5 * float(whole.abs().max())
    for options in ({}, {"num_beams": 3}):
        settings = {"max_new_tokens": 20, "do_sample": False, **options}
        added = model.generate(inputs[:, :20], **settings)
        assert torch.equal(added, model.generate(inputs[:, :20], use_cache=False, **settings))
        if not options:
            padded = torch.cat([torch.zeros(2, 5, dtype=torch.int64), inputs[:, :20]], 1)
            mask = (torch.arange(25) >= 5).long().expand(2, -1)
            assert torch.equal(model.generate(padded, attention_mask=mask, **settings)[:, 5:], added)
    mask = (torch.arange(60) < 50).long().expand(2, -1)
    short = logits(model, inputs, attention_mask=mask, use_cache=False)[:, :50]
    assert difference(short, logits(model, inputs[:, :50], use_cache=False)) < 1e-5 * float(whole.abs().max())
    restore(model)
    assert torch.equal(logits(model, inputs, use_cache=False), expected)
    assert torch.equal(model.generate(inputs[:, :20], max_new_tokens=20, do_sample=False), before)
    assert not hasattr(model.config, "liger")


def test_a_cache_of_softmax_attention_is_refused():
    model = theirs("llama")
    inputs = tokens(20, vocabulary=96)
    cache = model(inputs, use_cache=True).past_key_values
    linearize(model, window=8)
    with pytest.raises(UserError, match="was filled by softmax attention"):
        model(inputs[:, :1], past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("kind", HF)
def test_a_folder_is_linearised_trained_written_and_read(kind, tmp_path):
    theirs(kind).save_pretrained(tmp_path / "base")
    settings = {"limit_train_batches": 2, "limit_val_batches": 1, "max_epochs": 1, "logger": False}
    trainer = pl.Trainer(
        **settings,
        accelerator="cpu",
        callbacks=[Liger(window=8), LoRA(rank=2, target_modules=["q_proj", "k_proj"])],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    module = CausalLM(path=str(tmp_path / "base"), optimizer={"lr": 0.01})
    np.save(tmp_path / "tokens.npy", np.tile(np.arange(1, 96, dtype=np.uint16), 40))
    trainer.fit(module, datamodule=TokenData(str(tmp_path / "tokens.npy"), length=24, vocab_size=96, batch_size=4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    inputs = tokens(30, vocabulary=96)
    trained = logits(module.eval(), inputs)

    opened = framework.open_model(tmp_path / "last.ckpt", CausalLM).eval()
    assert torch.equal(logits(opened, inputs), trained)
    with pytest.raises(UserError, match=r"lora.* depends on it"):
        undo(opened, "liger")
    framework.fold(opened)
    assert difference(logits(opened, inputs), trained) < 1e-4
    opened.save_pretrained(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "config.json").read_text())["liger"]
    assert (record["variant"], record["window"], len(record["layers"])) == ("gla", 8, 3)

    plain = CausalLM(path=str(tmp_path / "out")).eval()
    assert not converted(plain)
    assert difference(logits(plain, inputs), trained) > 0.01
    assert difference(logits(linearize_as_recorded(plain), inputs), trained) < 1e-4
    with pytest.raises(UserError, match="was not linearised"):
        linearize_as_recorded(theirs(kind))


def test_adapters_of_a_converted_model_can_be_merged_and_taken_away():
    model = linearize(ours(), window=8)
    add_lora(model, ["decoder.blocks.0.mixer.q_proj"], rank=2, init=False)
    changed = logits(model, tokens(20))
    restore(model)
    linearize(model, window=8)
    assert torch.equal(logits(model, tokens(20)), changed)
