"""One layer of linear attention on regression prompts: its limit, its errors, and a GPT-2 to compare with.

Paper: Zhang, Frei, Bartlett, 2024, "Trained Transformers Learn Linear Models In-Context", JMLR 25(49), arXiv
2306.09927.

What it is for: an attention layer with an exact solution. On prompts (x_1, y_1), …, (x_N, y_N), x_q with y = ⟨w, x⟩ and
w ~ N(0, I), x ~ N(0, Λ), the layer ``f(E) = E + W^PV E Eᵀ W^KQ E/N`` (:mod:`modules.in_context.linear_attention`),
with a balanced start, converges under gradient flow to

    W^KQ = tr(Γ⁻²)^(−1/4) diag(Γ⁻¹, 0),  W^PV = tr(Γ⁻²)^(1/4) e eᵀ,  Γ = (1 + 1/N) Λ + tr(Λ)/N I          (Theorem 4.1)

that is ``ŷ = x_qᵀ Γ⁻¹ (1/M) Σ y_i x_i`` on a prompt of M examples: one step of preconditioned gradient descent. Its
error is known for any length, noise, query covariance or task (Theorem 4.2 and
:func:`~modules.in_context.icl_linear_models.theory.readout_risk`), and if each prompt draws its own diagonal Λ, it
converges to b I and never becomes exact (Theorem 4.5). ``GPT2InContext`` is the paper's GPT-2 on the same prompts.

Expected numbers (``reproduce icl_linear_models``): ‖u U − Γ⁻¹‖/‖Γ⁻¹‖ of 0.003 after 6,000 steps of Adam on prompts (d
= 5, N = 20, AR(0.5)), errors at M = 5, 20, 80 within 1.6 % of the closed form; with covariates scaled by c = 2, the
error over c² is 18 times larger (d = 20).

Cost: O(N d²) a prompt; 6,000 steps of 1,024 prompts with four starts took 32 s of one core. Generating the prompts is a
large part of this time (45 % with one start): a step costs little more than its random numbers.

Composes with observers and with techniques that change values. Members are tensors of more than two dimensions, so
techniques for linear layers have no effect, except in the GPT-2.

Limits: Adam reaches the limit's readout u U, but not the balance u² = ‖U‖², which only gradient flow has. Directions
with small eigenvalues of Λ are learnt last, so errors converge long before weights. Gradients have heavy tails, and
clipping moves the stationary point: if each prompt draws its covariance, clipping at a norm of 1 makes b 3.5 % too
large, clipping at 30 does not.
"""

from modules.in_context.icl_linear_models.gpt2 import GPT2InContext
from modules.in_context.icl_linear_models.module import LinearModelsInContext

__all__ = ["GPT2InContext", "LinearModelsInContext"]
