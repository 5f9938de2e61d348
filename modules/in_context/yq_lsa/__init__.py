"""Linear attention with a learnt guess of the query's label, which makes it gradient descent from any start.

Paper: Xie, Yuan, Rossi, Hannagan, 2025, "The Initialization Determines Whether In-Context Learning Is Gradient
Descent", TMLR, arXiv 2512.04268.

What it is for: prompts whose tasks have a mean, w ~ N(w*, I). In the prompt's matrix the query's label is a guess y_q
instead of 0, and the layer's answer is (:mod:`modules.in_context.linear_attention`)

    ŷ = y_q + Σ_h p_hᵀ G W^KQ_h (x_q; y_q),    G = (1/C) Σ_i (x_i; y_i)(x_i; y_i)ᵀ

With y_q = ⟨v, x_q⟩ and a learnt v, one head can represent every gradient step ``⟨w₀ − Γ (S w₀ − g), x_q⟩`` exactly: v =
w₀, p = (−w₀; 1), W^KQ = diag(Γᵀ, 0). Without a guess each term is linear in G, more than d + 1 heads do not help, and
for Λ = Ψ = I their best error is that of the best step from w* plus ``2 |w*|²/(d C + 2)``. These closed forms are
derived for this implementation and checked on prompts (:mod:`~modules.in_context.yq_lsa.theory`). The guess is a linear
map here, because only then can the paper's equality with gradient descent hold.

Expected numbers (``reproduce yq_lsa``, d = 5, C = 10): error 1.87 with the guess, for any |w*|; without it, at |w*| =
4, the error is 5.63 with one head and 2.49 with six or ten.

:mod:`~modules.in_context.yq_lsa.similarity` asks language models for the similarity of sentences with and without a
guess in the prompt. SmolLM2-135M, without fine-tuning, on 40 edited sentences after two rated pairs: mean squared error
3.35 without a guess, 3.18 with the examples' mean, 2.54 with MiniLM's cosine (whose own error is 0.57); Spearman's
correlation 0.05, 0.06, 0.28.

Cost: O(C d²) a prompt and O(H d²) a head.

Composes with observers and with techniques that change values; members are tensors of more than two dimensions.

Limits: closed forms are for Gaussian covariates. Squared errors have heavy tails: compare over 10⁵ prompts or more.
"""

from modules.in_context.yq_lsa.module import GuessingAttention
from modules.in_context.yq_lsa.similarity import SimilarityLM

__all__ = ["GuessingAttention", "SimilarityLM"]
