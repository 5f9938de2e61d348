"""Softmax attention on linear regression: heads in pairs of opposite sign that make a debiased gradient step.

Paper: He, Pan, Chen, Yang, 2025, "In-Context Linear Regression Demystified: Training Dynamics and Mechanistic
Interpretability of Multi-Head Softmax Attention", ICML, arXiv 2503.12734.

What it is for: a softmax layer that can be interpreted. The query attends only to the examples z_l = (x_l; y_l),

    ŷ = Σ_h OV_h Z softmax(Zᵀ KQ_h z_q),    KQ_h = K_hᵀ Q_h/√D,  OV_h = O_h V_h

and training from ordinary initial weights ends with ``KQ_h ≈ ω_h diag(I, 0)``, ``OV_h ≈ μ_h e_(d+1)ᵀ``: positive heads,
negative heads, dummies, with Σ μ_h ≈ 0. As ω → 0 the layer is ``(η/L) Σ y_l ⟨x_l − x̄, x_q⟩``, η = Σ μ_h ω_h, whose
exact error 1 + s2 − 2 η n/L + η² n (n + d + 1 + d s2)/L² (n = L − 1) holds at other lengths too. In mean field
(:mod:`~modules.in_context.icl_softmax_demystified.theory`) one head has an optimum at ω = 1/√d; two heads have an
infimum that they approach but never reach.

Expected numbers (``reproduce icl_softmax_demystified``; d = 5, L = 40, s2 = 0.1, the best gradient step has .243):
after 30,000 steps four heads have .244 to .257 from four starts and η = 0.85 to 0.88; one head has .407 from the best
of eight starts after 15,000, from the others .53 to .66, with one direction of x not yet learnt. ω itself keeps
decreasing during training (about t^(−1/6)), so compare η and the error.

More dimensions take longer. d = 8, L = 64, task variance 1/8 (the debiased step has .235; diagonal circuits with the
trained ω and μ .238 to .245): after 30,000 steps .253 to .263 from four starts, after 90,000 .244, .246, .257 and .263.
What is left is in the d × d block of KQ off its diagonal (with it set to 0, .239 to .249); the row of the labels and OV
add at most .004. From two of the starts it has almost gone, the other two each keep a head of small μ that has it.

Cost: O(H L d) a prompt; 30,000 steps of 256 prompts with four starts took two minutes of one core.

Composes with observers and with techniques that change values; members are tensors of more than two dimensions.

Limits: two heads that start with the same sign can behave as one head (``--model.init=opposite``, or more heads).
The theory is for isotropic covariates; with ``--data.law.covariance=ar`` there is only the simulation.
"""

from modules.in_context.icl_softmax_demystified.module import SoftmaxInContext

__all__ = ["SoftmaxInContext"]
