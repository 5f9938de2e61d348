"""MoM: language models with several matrix memories, of which each token writes to and reads from a few.

Paper: Du, Sun, Lan, Hu, Cheng, 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories", ICLR 2026, arXiv
2502.13685.

What it is for: a language model whose decoding state does not grow with the text, and that recalls more of it than one
memory of linear attention can: what is written to different memories does not interfere.

Per head, with a router p = softmax(x W) over M memories, of which a token takes the k likeliest (g: their p, made to
sum to 1) and a shared one with weight 1:

    S^m ← S^m + (k^m)ᵀ v^m  only where m was chosen;  o = q Σ_m g_m S^m;  y = (RMSNorm(o) ⊙ SiLU(x W_gate)) W_o

Keys, values and gates are each memory's own, queries are common. A memory that is not chosen neither changes nor
decays, and the short convolution on q, k, v runs over a memory's own tokens, in training as in decoding (the authors'
code lets it cross from one memory into the next in training). In place of ``S + kᵀv`` any rule of ``RULES``:
``linear``, ``retnet``, ``mamba2``, ``gla``, ``hgrn2``, ``rwkv6``, ``deltanet``, ``gated_deltanet`` (the paper's
headline, chunked: :mod:`modules.sequence.mom.delta_rule`). The loss adds λ M Σ_m f_m P_m, taken layer by layer: pooled
over layers, as in one of the authors' versions, it does not see two layers that collapse onto different memories.

:class:`MoMLayer` works in any model; :class:`MoMLM` is a language model of such layers, with softmax attention every so
many if asked; :class:`MoMRecall` is one layer on recall of fused pairs.

Interference (:mod:`modules.sequence.mom.interference`): of n random pairs in keys of d dimensions a memory gives back
each with error |o − v|²/|v|² = (n − 1)/d, whatever the width of the values; k of M memories with weights g divide it by
M / (k Σ g²): 2.00 to 0.50 for 65 pairs, d = 32, 2 of 4.

Expected numbers (``reproduce mom``): recall of 32 fused pairs with keys of 8 dimensions, means of two seeds: one memory
0.79, the same with values three times as wide 0.80, 2 of 4 memories 0.93, with a shared one 0.97. Of seed 0: 2
of 8 and a shared one 0.99; 1 of 4 0.70, for with k = 1 the weight is 1 whatever the router says, so that it learns
from the balance loss alone. One memory with keys of 24 dimensions, whose state is that of 2 of 4 with a shared one, has
0.99: where a bigger memory can be paid for, it does as well. How much 2 of 4 recall depends on the seed (0.89 and
0.97) and on how fast the embeddings turn (``init_std``). The quick configuration: loads of the memories between 0.19
and 0.29 after three epochs, 1.51 nats a byte on Python's help. The paper, 380M parameters: recall 28.16 on average,
Gated DeltaNet 24.78; not run here.

Cost: of k + 1 single memories (measured 0.86 to 0.88 of three, for what they have in common is computed once), in a
state M + 1 times as large. The sorted form is 3 times faster than running every memory over all tokens
(``benchmarks/mom.py``).

Composes with every technique that works on linear layers; ``memory_load`` shows who writes where,
``length_extrapolation`` and ``throughput`` what length does.

Limits: no custom kernel; on a GPU the sorted form is batched matrix products over buckets padded to the longest, and
its speed there is not known. A capacity (``memory.capacity``) makes what is kept depend on later tokens. With λ = 0
memories fall idle within a few hundred steps.
"""

from modules.sequence.mom.layer import Memories, MoMLayer, MoMState
from modules.sequence.mom.module import MoMLM
from modules.sequence.mom.recall import MoMRecall
from modules.sequence.mom.routing import Router, balance_loss, pooled_balance_loss
from modules.sequence.mom.rules import RULES

__all__ = [
    "RULES",
    "Memories",
    "MoMLM",
    "MoMLayer",
    "MoMRecall",
    "MoMState",
    "Router",
    "balance_loss",
    "pooled_balance_loss",
]
