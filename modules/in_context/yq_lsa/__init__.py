"""Linear attention with a learnt guess of the query's label, which makes it gradient descent from any start.

Paper: Xie, Yuan, Rossi, Hannagan, 2025, "The Initialization Determines Whether In-Context Learning Is Gradient
Descent", TMLR, arXiv 2512.04268.

What it is for: prompts whose tasks have a mean, w ~ N(w*, I). In the prompt's matrix the query's label is a guess y_q
instead of 0, and the layer answers (:mod:`modules.in_context.linear_attention`)

    ŷ = y_q + Σ_h p_hᵀ G W^KQ_h (x_q; y_q),    G = (1/C) Σ_i (x_i; y_i)(x_i; y_i)ᵀ

With y_q = ⟨v, x_q⟩, v learnt, one head holds every step ``⟨w₀ − Γ (S w₀ − g), x_q⟩`` exactly: v = w₀, p = (−w₀; 1),
W^KQ = diag(Γᵀ, 0). Without a guess each term is linear in G, d + 1 heads are as good as any number, and for Λ = Ψ = I
their best error is that of the best step from w* plus ``2 |w*|²/(d C + 2)``. These closed forms are derived for this
implementation and checked on prompts (:mod:`~modules.in_context.yq_lsa.theory`); that the guess is a linear map is the
one choice with which the paper's equality with gradient descent can hold.

Expected numbers (``reproduce yq_lsa``, d = 5, C = 10): error 1.87 with the guess whatever |w*|; without it at |w*| = 4
5.63 with one head, 2.49 with six or ten.

:mod:`~modules.in_context.yq_lsa.similarity` asks language models for the similarity of sentences with and without a
guess in the prompt. SmolLM2-135M, as it is, on 40 edited sentences after two rated pairs: mean squared error 3.35
without a guess, 3.18 with the examples' mean, 2.54 with MiniLM's cosine (whose own error is 0.57); Spearman's
correlation 0.05, 0.06, 0.28.

Cost: O(C d²) a prompt and O(H d²) a head.

Composes with observers and with techniques that change values; members are tensors of more than two dimensions.

Limits: closed forms are for Gaussian covariates. Squared errors have heavy tails: compare over 10⁵ prompts or more.
"""

from modules.in_context.yq_lsa.module import GuessingAttention
from modules.in_context.yq_lsa.similarity import SimilarityLM

__all__ = ["GuessingAttention", "SimilarityLM"]
