"""Lightning Attention-2 and TransNormerLLM: causal linear attention with decay, at a constant cost per token.

Paper: Qin, Sun, Li, Shen, Sun, Zhong, 2024, "Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence
Lengths in Large Language Models", arXiv 2401.04658; the model around it: arXiv 2307.14995.

What it is for: language models on long sequences. :func:`lightning_attention` is an exact function of q, k, v and a
decay, for any length, with time and memory linear in the length; :class:`TransNormerLM` trains with it and decodes with
a state of d² numbers for each head.

With λ = exp(−s) for each head, s ≥ 0 fixed: ``o_t = q_t Σ_{i≤t} λ^(t−i) k_iᵀ v_i``; no softmax, no 1/√d, no
denominator. In tiles of B tokens (r = 1 … B within a tile of m), with the state S before a tile (eqs. 9 to 12,
algorithms 1 and 2):

- ``O = ((Q Kᵀ) ⊙ M) V + λ^r ⊙ (Q S)``, M_rc = λ^(r−c) for r ≥ c;  ``S ← λ^m S + (λ^(m−r) ⊙ K)ᵀ V``
- backward, from the last tile to the first with G for S: ``dQ = ((dO Vᵀ) ⊙ M) K + λ^r ⊙ (dO Sᵀ)``,
  ``dK = ((dO Vᵀ) ⊙ M)ᵀ Q + λ^(m−r) ⊙ (V Gᵀ)``, ``dV = ((Q Kᵀ) ⊙ M)ᵀ dO + λ^(m−r) ⊙ (K G)``,
  ``G ← λ^m G + (λ^r ⊙ Q)ᵀ dO``. Only q, k, v are saved for the backward pass; states are computed again.

Eq. 9 of the paper prints diag(1 … λ^(B−1)) for the queries; together with eq. 10 this makes the part from other tiles
too large by 1/λ. The paper's algorithm 1 is right, and is implemented here. Decays: those of the released models
(ALiBi's slopes, times 1 − l/(L−1) + 1e-5 in layer l), or those of the TransNormerLLM paper, which are very different.

The block: ``x += W_o[U ⊙ SRMSNorm(A(SiLU(x W_q), SiLU(x W_k), x W_v))]``, U = x W_u, then ``x += ((x W_g) ⊙ (x W_u))
W_d``, each after SRMSNorm(x) = x / (‖x‖/√d). In layer 0 queries and keys have learnt positions (LRPE).

Forms: ``tiled`` in PyTorch, for any machine; one Triton kernel for a GPU, which also computes the gradients when run in
reverse (tested in Triton's interpreter only; its speed on a GPU is not known); the recurrence, the left and the right
product as references (``reference.py``).

Expected numbers (``reproduce lightning_attention``): after 300 steps on the bytes of Python's help (4 layers, width
128) 1.494 nats per byte, both by tiles and by the left product (they differ by 5e-6; the paper has 2.228 and 2.229
with 0.4B parameters); a softmax model of that size 1.548. Tokens per second of a training step at 4,096 tokens, divided
by those at 256: 0.97.

Cost: n(B(d+e) + 2de) multiplications for each head. One CPU thread, h4 d64, forward and backward: 15 to 17 times faster
than the left product at n = 2048, 5 times than softmax attention there, 19 times at 8192
(``benchmarks/lightning_attention.py``). On the GPUs of the paper it loses to flash attention below about 4k tokens.

Composes with every technique that works on linear layers; the observers ``throughput`` and ``generate_sample``.

Limits: decays are not learnt (no gradient for s). Padding is masked on the values, so it must be on the left. No
sequence parallelism.
"""

from modules.sequence.lightning_attention.attention import alibi_slopes, layer_slopes, lightning_attention
from modules.sequence.lightning_attention.layer import LightningAttention
from modules.sequence.lightning_attention.module import TransNormerLM

__all__ = ["LightningAttention", "TransNormerLM", "alibi_slopes", "layer_slopes", "lightning_attention"]
