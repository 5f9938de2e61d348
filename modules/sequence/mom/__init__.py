"""MoM: language models with several matrix memories; each token writes to and reads from a few of them.

Paper: Du, Sun, Lan, Hu, Cheng, 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories", ICLR 2026, arXiv
2502.13685.

What it is for: a language model whose decoding state does not grow with the text, and that recalls more of it than
linear attention with one memory: writes to different memories do not interfere.

For each head, a router p = softmax(x W) over M memories chooses the k most likely ones for each token (g: their p,
normalised to sum 1), and a shared memory has weight 1:

    S^m ← S^m + (k^m)ᵀ v^m  only where m was chosen;  o = q Σ_m g_m S^m;  y = (RMSNorm(o) ⊙ SiLU(x W_gate)) W_o

Each memory has its own keys, values and gates; queries are common. A memory that is not chosen neither changes nor
decays, and the short convolution on q, k, v runs over a memory's own tokens, in training as in decoding (the authors'
code lets it cross from one memory into the next in training). Instead of ``S + kᵀv`` any rule of ``RULES`` can be used:
``linear``, ``retnet``, ``mamba2``, ``gla``, ``hgrn2``, ``rwkv6``, ``deltanet``, ``gated_deltanet`` (the paper's
headline, chunked: :mod:`modules.sequence.mom.delta_rule`). The loss adds λ M Σ_m f_m P_m, computed for each layer:
computed over all layers together, as in one of the authors' versions, it does not detect two layers that collapse onto
different memories.

:class:`MoMLayer` works in any model; :class:`MoMLM` is a language model of such layers, optionally with softmax
attention in every n-th layer; :class:`MoMRecall` is one layer on recall of fused pairs.

Interference (:mod:`modules.sequence.mom.interference`): with n random pairs and keys of d dimensions, a memory returns
each value with an error |o − v|²/|v|² = (n − 1)/d, for any width of the values; k of M memories with weights g divide
it by M / (k Σ g²): 2.00 to 0.50 for 65 pairs, d = 32, 2 of 4.

Expected numbers (``reproduce mom``): recall of 32 fused pairs with keys of 8 dimensions: 2 of 4 memories are 0.15 above
one memory (0.79) on average over four seeds (0.10 to 0.19), 0.14 above one with values three times as wide; a shared
one adds 0.02 (0.01 to 0.04). Of seed 0: 8 memories for 4 add 0.03; 1 of 4 is 0.06 below one memory, because with k = 1
the weight is always 1, so the router learns from the balance loss only. One memory with keys of 24 dimensions, whose
state is as large as that of 2 of 4 with a shared one, has 0.99: one larger memory is as good if its cost is acceptable.
How much 2 of 4 recall depends on the seed, whatever the settings, and on how fast the embeddings change direction
(``init_std``). Loads of the memories are between 0.20 and 0.33 over three seeds with the balance loss; without it the
smallest is a quarter of that or less. The quick configuration: 1.51 nats a byte on Python's help. The paper, 380M
parameters: recall 28.16 on average, Gated DeltaNet 24.78; not run here.

Cost: that of k + 1 single memories (measured: 0.86 to 0.88 of three, because common parts are computed once), with a
state M + 1 times as large. The sorted form is 3 times faster than running every memory over all tokens
(``benchmarks/mom.py``).

Composes with every technique that works on linear layers; ``memory_load`` shows which tokens write to which memory,
``length_extrapolation`` and ``throughput`` show the effect of length.

Limits: no custom kernel; on a GPU the sorted form is batched matrix products over buckets padded to the longest, and
its speed there is not known. With a capacity (``memory.capacity``) the tokens that are kept depend on later tokens.
With λ = 0 some memories are no longer used after a few hundred steps.
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
