"""Liger: turns a trained softmax transformer into a gated recurrent one without additional parameters.

Paper: Lan, Sun, Hu, Du, Cheng, 2025, "Liger: Linearizing Large Language Models to Gated Recurrent Structures", ICML,
arXiv 2503.01496.

What it is for: decoding with a pretrained transformer at a cost per token that does not grow with the position. Each
attention layer keeps W_Q, W_K, W_V, W_O; only the computation between them is replaced:

    o_t = α · GRM(q, k, v) + β · SWA(q, k, v), α = β = ½

SWA is the layer's own softmax attention, rotated, over the last w = 64 tokens. GRM is a gated recurrence; for ``gla``

    S_t = diag(a_t) S_{t−1} + φ(k_t)ᵀ v_t, o_t = φ(q_t) S_t, a_t = σ(k_t)^{1/τ}, φ = softmax over d

so the gate is computed from the key. τ = 16 is from the official code, the text has none. Other recurrences of the
paper's Table 1: ``hgrn2``, ``gsa``, ``rwkv6``, ``mamba2``, ``retention``, ``mlstm`` (which without its normaliser is
retention), and ``linear`` (no gate). Decoding keeps S and the last w − 1 keys and values. The loss is recovered by LoRA
on q, k and v (``lora``, rank 8, alpha 8), trained only on the next token; :mod:`callbacks.recovery_report` measures how
much.

Use ``epoch: 0`` for a pretrained model; with ``epoch: N`` the same fit pretrains it first. In any loop:
:func:`linearize`, :func:`restore`, :func:`disabled`. Names and shapes of a state dict do not change, so a base's
weights load strictly, and ``save_pretrained`` writes a folded model as a plain folder of transformers; its config has
the recipe under ``liger``, from which :func:`linearize_as_recorded` makes the linear model again.

Expected numbers (``reproduce liger``, one CPU core, five and a half minutes): Python's help topics as bytes, two layers
of width 64, w = 8, loss in nats, means of 2 seeds (in brackets) or of one: base 1.54 (1.53 to 1.55); right after the
conversion 3.44 (2.21 to 4.68) and after 100 steps of LoRA 1.65 (1.62 to 1.67), that is 91 % of the gap (86 to 96);
without SWA 5.12 and 2.47, SWA alone 1.57 and 1.54, without a gate 5.26 and 1.71, with a gate projection 2.97 and 1.61,
α = β = 1 6.78 and 1.60. With a base that was trained at three times the learning rate, whose gap is smaller, LoRA
closed 80 and 90 %. Multi-query recall beyond the window (base 1.00): Liger 0.38 (0.34 to 0.43), SWA alone 0.18 (0.14 to
0.21), no SWA 0.22, no gate 0.63. The paper's: Llama-3-8B 71.7 on six tasks, 67.6 after; not run here.

Cost: the conversion itself is free. On one CPU core (``benchmarks/liger.py``; D = 256, 4 heads) a training step of a
layer takes 1.25 times that of softmax attention at 1,024 tokens, 0.54 at 4,096 and 0.21 at 16,384; a decoding step 1.25
times at 1,024, two thirds at 4,096 and a fifth at 16,384 tokens, with a state 11, 43 and 172 times smaller.

It works with every technique: those that need the new model (``lora``, ``kappa_tune``) wait for it, others can be
before or after it. ``framework.editing.undo(model, "liger")`` restores softmax attention. ``framework.fold`` merges
adapters and keeps the layers linear, because they were not trained for softmax attention.

Limits: attention of transformers' Llama, Mistral, Qwen2 and Qwen3, and of our own TransformerLM; anything else is
refused by name. The paper's learned feature map is not implemented; its random gate projection is
(``gate_projection``), but cannot be folded. Packed documents attend to each other, as in the official code
(:func:`liger_attention` accepts their numbers). A recurrence cannot remove tokens, so assisted generation is not
possible. With heads as small as 16 the recurrence has too much weight (its weights sum to 23.6/d at k = 0): then SWA
alone is better on text, and the paper's order of the ablations does not hold. Retrieval beyond the window is lost (the
paper: MMLU 65.3 to 43.4).
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
