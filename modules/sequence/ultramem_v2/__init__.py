"""UltraMemV2: memory layers parallel to the FFNs, with very many parameters at almost no cost per token.

Paper: UltraMemV2: Memory Networks Scaling to 120B Parameters with Superior Long-Context Learning (Huang, Bao, Min et
al.; ICLR 2026; arXiv 2508.18756)

What it is for. Adding capacity (facts, long-context memorisation) to a Transformer with little additional arithmetic or
memory traffic: in each block every token reads a few of N² tiny experts from a table. Related methods are included for
comparison: ``memory.kind: ultramem`` (2411.12364), ``peer`` (2407.04153), ``pkm`` (1907.05242), ``none`` (the FFN
alone).

Equations. ``h = x + Attn(norm x)``, ``z = norm(h)``, ``out = h + FFN(z) + Mem(z)``. Queries q_row[ρ], q_col[ρ] of D_k
for each rank ρ < r, and N row and N column keys for each rank, both RMS-normed with a gain, give S_row, S_col (r, N). A
core C (r, r) scores slot (i, j): ``G_ij = S_row[:, i]ᵀ C S_col[:, j]``. TDQKR: the m best rows by u₁ᵀ S_row and columns
by t₁ᵀ S_col, (u₁, t₁) the leading singular vectors of C, then the m best of these m² by G. Then eq. 15, ``Mem(z) = W_o
Σ_i ŝ_i (p_i · W_p z) v_i``, no softmax, no activation. c = 2 cores each weight a part of the value vector, and slots
are chosen by the sum of their scores. h key sets for rows and for columns (eq. 10, 11) make h² blocks of virtual slots
that share the table. A fixed random permutation maps slots to rows; layer ℓ reads a window of one global table, g
tables wide, that wraps around at the end. u₁ and t₁ are buffers, updated for all layers by one batched SVD before each
forward pass in training; their sign is the one closest to the earlier vectors. Initialisation of appendix A (scores
calibrated to mean 1, eq. 26 read as σ_V⁴), or the constants of the released code (``init: released``). Tucker penalty
and balance loss are off by default.

Parts. :class:`UltraMemV2Layer` and the functions in ``tdqkr``, ``tables``, ``initialisation`` and ``sizes`` work
without Lightning. :class:`UltraMemLM` is a language model, :class:`FactModel` recalls (subject, relation) -> object.
With ``optimizer: {name: row_adamw}`` the tables' gradients are sparse and only rows that were read cost time; with
``adamw`` they are dense. ``value_boost`` c and ``value_boost_share`` ρ: the tables' rate is that of the others times
``1 + (c−1) max(0, 1 − step/(ρ T))``.

Expected (``reproduce ultramem_v2``, means of three seeds). 8,192 facts: the FFN alone 0.368, PKM 0.909, V2 without
pre-values 1.000, V2 0.992; 12,288 facts: 0.162 and 0.753. Bytes of the standard library's source code, 400 steps: at
equal multiply-adds at least 0.036 nats per byte below the wider FFN alone. With appendix A's initialisation in place of
the released constants it is 0.025 above it after 800 steps (one seed). Calibrated scores have mean 1 within 0.01,
output variances the formula's within 3 %. After that training λ₁/λ₂ of the cores is 3.9 at least,
where the paper's models have 4 and more.

Cost. A token's arithmetic grows with D_k·N for the keys and m² for the candidates, not with the table; with
``row_adamw`` a step touches only rows that were read. See ``benchmarks/ultramem_v2.py``.

Composes with. MemoryTable (coverage, scores), CoreSpectrum, Throughput, GenerateSample, ``lora`` techniques for
``nn.Linear``, and EMA. With bf16-mixed, scores, choices and the tables' sums stay in float32; with bf16-true, scores
and choices. DDP works, with gloo also for sparse gradients.

Limits. Tables distributed over several machines (the paper's parallelism) and block sharing between pipeline stages are
not implemented. There are m² candidates for each token: m = 768 gives 590,000, which the paper limits by 128 rows and
columns. Scores are unbounded and of fourth degree in the gains of the norms. TDQKR never finds slots whose row and
column scores are both negative. The released ``forward`` mixes ranks and heads; this implementation follows the
equations.
"""

from modules.sequence.ultramem_v2.layers import MemoryConfig, UltraMemV2Layer, refresh
from modules.sequence.ultramem_v2.module import FactModel, UltraMemLM

__all__ = ["FactModel", "MemoryConfig", "UltraMemLM", "UltraMemV2Layer", "refresh"]
