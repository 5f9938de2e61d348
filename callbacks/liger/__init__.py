"""Liger: turns a trained softmax transformer into a gated recurrent one, with not one parameter more.

Paper: Lan, Sun, Hu, Du, Cheng, 2025, "Liger: Linearizing Large Language Models to Gated Recurrent Structures", ICML,
arXiv 2503.01496.

What it is for: there is a checkpoint of a transformer, and its decoding should cost the same at the millionth token as
at the first. Each attention layer keeps W_Q, W_K, W_V, W_O; only what happens between them is replaced:

    o_t = α · GRM(q, k, v) + β · SWA(q, k, v), α = β = ½

SWA is the layer's own softmax attention, rotated, over the last w = 64 tokens. GRM is a gated recurrence; for ``gla``

    S_t = diag(a_t) S_{t−1} + φ(k_t)ᵀ v_t, o_t = φ(q_t) S_t, a_t = σ(k_t)^{1/τ}, φ = softmax over d

so the gate is made of the key itself. τ = 16 is the official code's, the text has none. Other recurrences of the
paper's Table 1: ``hgrn2``, ``gsa``, ``rwkv6``, ``mamba2``, ``retention``, ``mlstm`` (which without its normaliser is
retention), and ``linear`` (no gate). Decoding keeps S and the last w − 1 keys and values. What is lost comes back by
LoRA on q, k and v (``lora``, rank 8, alpha 8), trained on the next token alone; :mod:`callbacks.recovery_report` says
how much.

On a pretrained model ``epoch: 0``; with ``epoch: N`` the same fit pretrains it first. In any loop: :func:`linearize`,
:func:`restore`, :func:`disabled`. Names and shapes of a state dict never change, so a base's weights load strictly, and
a folded model is written by ``save_pretrained`` as a plain folder of transformers; its config records the recipe under
``liger``, and :func:`linearize_as_recorded` makes the linear model of it again.

Expected numbers (``reproduce liger``, one CPU core, five and a half minutes): Python's help topics as bytes, two layers
of width 64, w = 8, loss in nats, means of 2 seeds (in brackets) or of one: base 1.54 (1.53 to 1.55); right after the
conversion 3.44 (2.21 to 4.68) and after 100 steps of LoRA 1.65 (1.62 to 1.67), that is 91 % of the gap (86 to 96);
without SWA 5.12 and 2.47, SWA alone 1.57 and 1.54, without a gate 5.26 and 1.71, with a gate projection 2.97 and 1.61,
α = β = 1 6.78 and 1.60. With a base that was trained at three times the rate, whose gap is smaller, LoRA closed 80 and
90 %. Multi-query recall beyond the window (base 1.00): Liger 0.38 (0.34 to 0.43), SWA alone 0.18 (0.14 to 0.21), no SWA
0.22, no gate 0.63. The paper's: Llama-3-8B 71.7 on six tasks, 67.6 after; not run here.

Cost: nothing to convert. On one CPU core (``benchmarks/liger.py``; D = 256, 4 heads) a training step of a
layer takes 1.25 times that of softmax attention at 1,024 tokens, 0.54 at 4,096 and 0.21 at 16,384; a decoding step 1.25
times at 1,024, two thirds at 4,096 and a fifth at 16,384 tokens, with a state 11, 43 and 172 times smaller.

Composes with everything: techniques that need the new model (``lora``, ``kappa_tune``) wait for it, others go before or
after it as they like. ``framework.editing.undo(model, "liger")`` gives softmax attention back. ``framework.fold``
merges adapters and leaves the layers linear: softmax attention is not what they were trained for.

Limits: attention of transformers' Llama, Mistral, Qwen2 and Qwen3, and of our own TransformerLM; anything else is
refused by name. The paper's learned feature map is not here; its random gate projection is (``gate_projection``), and
cannot be folded. Packed documents see each other, as in the official code (:func:`liger_attention` takes their
numbers). What a recurrence has read cannot be taken back, so no assisted generation. Heads as small as 16 give the
recurrence too much weight (its weights sum to 23.6/d at k = 0): there SWA alone is better on text, and the paper's
order of the ablations does not hold. Finding things again that lie beyond the window is what is lost (the paper: MMLU
65.3 to 43.4).
"""

from callbacks.liger.attention import LigerAttention, LigerState, Recipe, liger_attention
from callbacks.liger.callback import Liger
from callbacks.liger.conversion import attentions, converted, disabled, linearize, linearize_as_recorded, restore

__all__ = [
    "Liger",
    "LigerAttention",
    "LigerState",
    "Recipe",
    "attentions",
    "converted",
    "disabled",
    "liger_attention",
    "linearize",
    "linearize_as_recorded",
    "restore",
]
