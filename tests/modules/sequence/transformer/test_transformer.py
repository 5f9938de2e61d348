"""The softmax base: against transformers' Llama, decoding, masks."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from framework.functional.rotary import angles, rotate
from modules.sequence.transformer import TransformerLM


def small(**changed):
    torch.manual_seed(0)
    return TransformerLM(**{"vocab_size": 50, "d_model": 32, "n_layers": 2, "n_heads": 4, "hidden": 48} | changed)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_it_is_transformers_llama(kv_heads):
    from transformers import LlamaConfig, LlamaForCausalLM

    model = small(n_kv_heads=kv_heads)
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    llama = LlamaForCausalLM(LlamaConfig(**shape, **heads, rms_norm_eps=1e-6, tie_word_embeddings=False)).eval()
    names = {"embed_tokens": "embedding", "layers": "blocks", "self_attn": "mixer"}
    names |= {"input_layernorm": "mixer_norm", "post_attention_layernorm": "mlp_norm"}
    weights = {}
    for name, tensor in llama.state_dict().items():
        parts = [names.get(part, part) for part in name.removeprefix("model.").split(".")]
        weights["decoder." + ".".join(parts).replace("lm_head", "head")] = tensor
    model.load_state_dict(weights, strict=True)
    tokens = torch.randint(50, (2, 23))
    torch.testing.assert_close(model(tokens), llama(tokens).logits, rtol=1e-4, atol=1e-5)


def test_prefill_and_steps_equal_one_pass():
    model = small(n_kv_heads=2).double()
    tokens = torch.randint(50, (2, 15))
    first, state = model.extend(tokens[:, :4])
    second, state = model.extend(tokens[:, 4:5], state)
    third, _ = model.extend(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second, third], 1), model(tokens), rtol=1e-6, atol=1e-6)


def test_padding_on_the_left_changes_nothing():
    model = small().double()
    tokens = torch.randint(50, (1, 12))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.int64), tokens], 1)
    logits = model(padded, torch.arange(17)[None] >= 5)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:, 5:], model(tokens), rtol=1e-5, atol=1e-5)


def test_rotation_depends_on_distances_and_keeps_norms():
    q, k = torch.randn(2, 1, 1, 1, 16)
    turned = {place: angles(torch.tensor([place]), 16, 10000.0, q.dtype) for place in (7, 4, 103, 100)}
    near = (rotate(q, *turned[7]) * rotate(k, *turned[4])).sum()
    torch.testing.assert_close(near, (rotate(q, *turned[103]) * rotate(k, *turned[100])).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(q, *turned[103]).norm(), q.norm())


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"d_model: 32 is not accepted; a multiple of 10 \(2 n_heads\)"):
        small(n_heads=5)
    with pytest.raises(UserError, match=r"n_kv_heads: 3 is not accepted; a divisor of 4 \(n_heads\)"):
        small(n_kv_heads=3)
