"""TransNormerLLM: its block written out, decoding, masks, training through the command's machinery."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from modules.sequence.decoder import state_bytes
from modules.sequence.lightning_attention import LightningAttention, TransNormerLM, alibi_slopes
from modules.sequence.lightning_attention.layer import LRPE, simple_rms_norm
from modules.sequence.lightning_attention.reference import recurrence


def small(**changed):
    torch.manual_seed(0)
    return TransNormerLM(**{"vocab_size": 50, "d_model": 24, "n_layers": 3, "n_heads": 3, "block": 8} | changed)


def test_the_norm_has_no_parameters_and_the_papers_epsilon():
    x = torch.randn(5, 12, dtype=torch.float64)
    rms = x.norm(dim=-1, keepdim=True) / 12**0.5
    torch.testing.assert_close(simple_rms_norm(x), x / (rms + 1e-6), rtol=1e-5, atol=0)
    assert torch.equal(simple_rms_norm(torch.zeros(1, 12)), torch.zeros(1, 12))


def test_a_step_of_a_model_in_half_precision_decays_as_the_tiles_do():
    torch.manual_seed(0)
    layer = LightningAttention(8, 2, torch.tensor([0.001, 0.003])).bfloat16()  # λ rounds to 1 in bfloat16
    x = torch.randn(1, 400, 8).bfloat16()
    _, last = layer.extend(x)
    _, state = layer.extend(x[:, :1])
    for t in range(1, 400):
        _, state = layer.extend(x[:, t : t + 1], state)
    assert (state.memory - last.memory).norm() < 1e-4 * last.memory.norm()


def test_the_attention_block_written_out():
    torch.manual_seed(0)
    layer = LightningAttention(24, 3, alibi_slopes(3), lrpe=False, block=8).double()
    x = torch.randn(2, 21, 24, dtype=torch.float64)
    q, k, v, u = (x @ weight.T for weight in layer.qkvu_proj.weight.chunk(4))
    q, k = q * q.sigmoid(), k * k.sigmoid()
    heads = [y.reshape(2, 21, 3, 8).transpose(1, 2) for y in (q, k, v)]
    mixed = recurrence(*heads, alibi_slopes(3).double())[0].transpose(1, 2).reshape(2, 21, 24)
    expected = (u * mixed / (mixed.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)) @ layer.o_proj.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-6)


def test_lrpe_makes_products_depend_on_distances():
    torch.manual_seed(0)
    lrpe = LRPE(2, 6).double()
    q, k = torch.randn(2, 1, 2, 1, 6, dtype=torch.float64)
    near = (lrpe(q, 7) * lrpe(k, 4)).sum(-1)
    torch.testing.assert_close(near, (lrpe(q, 103) * lrpe(k, 100)).sum(-1))
    expected = (q * k * torch.cos(lrpe.theta * 3)).sum(-1)
    torch.testing.assert_close(near, expected)
    assert lrpe.theta.shape == (2, 1, 6)
    assert lrpe.theta[1, 0, 0].item() == pytest.approx(10000 ** (-12 / 12))


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_prefill_and_steps_equal_one_pass(cut):
    model = small().double()
    tokens = torch.randint(50, (2, 21))
    whole = model(tokens)
    logits, state = model.extend(tokens[:, :cut])
    size = state_bytes(state)
    parts = [logits]
    for t in range(cut, 21):
        logits, state = model.extend(tokens[:, t : t + 1], state)
        parts.append(logits)
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10
    assert state_bytes(state) == size  # O(d²), however many tokens there were


def test_generation_takes_the_likeliest_token_each_time():
    model = small(generation={"max_new_tokens": 5}).eval()
    prompt = torch.randint(50, (2, 6))
    tokens = prompt
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    given, added = model.generate(prompt)
    assert torch.equal(given, prompt)
    assert torch.equal(added, tokens[:, 6:])


def test_padding_on_the_left_changes_nothing():
    model = small(lrpe=False).double()
    tokens = torch.randint(50, (1, 12))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.int64), tokens], 1)
    mask = torch.arange(17)[None] >= 5
    torch.testing.assert_close(model(padded, mask)[:, 5:], model(tokens), rtol=1e-9, atol=1e-10)


def test_the_left_product_is_the_same_model():
    tokens = torch.randint(50, (2, 40))
    first, second = small().double(), small(form="left_product").double()
    torch.testing.assert_close(first(tokens), second(tokens), rtol=1e-9, atol=1e-10)


def test_half_lives_grow_with_depth_and_head():
    lives = torch.tensor(small(n_heads=4, d_model=32, n_layers=3).half_lives())
    assert (lives.diff(dim=1) > 0).all()
    assert (lives.diff(dim=0) > 0).all()
    torch.testing.assert_close(lives[0, 0], 0.693147 / (0.25 * 1.00001) * torch.ones(()))


def test_bad_settings_are_named():
    for changed, message in [
        ({"form": "fast"}, "form: 'fast' is not one of auto, tiled, triton, left_product"),
        ({"n_heads": 5}, "n_heads: 5 is not accepted; a divisor of 24"),
        ({"n_layers": 0}, "n_layers: 0 is not accepted"),
        ({"vocab_size": 0}, "vocab_size: 0 is not accepted"),
        ({"slopes": "no"}, "slopes: 'no' is not one of"),
        ({"generation": {"temperature": -1.0}}, "generation.temperature: -1.0 is not accepted; at least 0"),
    ]:
        with pytest.raises(UserError, match=message):
            small(**changed)
