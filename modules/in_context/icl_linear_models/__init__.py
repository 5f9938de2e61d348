"""One layer of linear attention on regression prompts: its limit, its errors, and a GPT-2 beside it.

Paper: Zhang, Frei, Bartlett, 2024, "Trained Transformers Learn Linear Models In-Context", JMLR 25(49), arXiv
2306.09927.

What it is for: an attention layer that can be solved. On prompts (x_1, y_1), …, (x_N, y_N), x_q with y = ⟨w, x⟩ and w
~ N(0, I), x ~ N(0, Λ), the layer ``f(E) = E + W^PV E Eᵀ W^KQ E/N`` (:mod:`modules.in_context.linear_attention`),
started balanced, goes by gradient flow to

    W^KQ = tr(Γ⁻²)^(−1/4) diag(Γ⁻¹, 0),  W^PV = tr(Γ⁻²)^(1/4) e eᵀ,  Γ = (1 + 1/N) Λ + tr(Λ)/N I          (Theorem 4.1)

that is ``ŷ = x_qᵀ Γ⁻¹ (1/M) Σ y_i x_i`` on a prompt of M examples: one step of preconditioned gradient descent. Its
error at any length, noise, query covariance or task is known (Theorem 4.2 and
:func:`~modules.in_context.icl_linear_models.theory.readout_risk`), and where each prompt draws a diagonal Λ of its own
it ends at b I and never becomes exact (Theorem 4.5). ``GPT2InContext`` is the paper's GPT-2 on the same prompts.

Expected numbers (``reproduce icl_linear_models``): ‖u U − Γ⁻¹‖/‖Γ⁻¹‖ of 0.003 after 6,000 steps of Adam on prompts (d
= 5, N = 20, AR(0.5)), errors at M = 5, 20, 80 within 1.6 % of the closed form; covariates times 2, 18 times the error
over c² (d = 20).

Cost: O(N d²) a prompt; 6,000 steps of 1,024 prompts with four starts took 32 s of one core. Drawing the prompts is a
large part of it (45 % with one start): a step costs little more than the random numbers that it reads.

Composes with observers and with techniques that change values. Members are tensors of more than two dimensions, so
techniques that look for linear layers find none, except in the GPT-2.

Limits: Adam reaches the limit's readout u U, not its balance u² = ‖U‖², which is gradient flow's. Small eigenvalues
of Λ are learnt last: errors come close long before weights do. Gradients have heavy tails, and clipping moves the point
where they vanish: with covariances that each prompt draws, a norm of 1 makes b 3.5 % too large, 30 does not.
"""

from modules.in_context.icl_linear_models.gpt2 import GPT2InContext
from modules.in_context.icl_linear_models.module import LinearModelsInContext

__all__ = ["GPT2InContext", "LinearModelsInContext"]
