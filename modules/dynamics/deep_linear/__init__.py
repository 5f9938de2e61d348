"""Deep linear networks: the exact course of learning, mode by mode and by depth.

Paper: Saxe, McClelland, Ganguli, 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks", ICLR, arXiv 1312.6120.

What it is for: learning curves, plateaus, depth and initialisation in a case with exact solutions. A product of L
weight matrices (the paper counts N_l = L + 1 layers of units) is trained on Σ11 = X Xᵀ and Σ31 = Y Xᵀ = U S Vᵀ:

    τ dW^l/dt = (W^L ⋯ W^(l+1))ᵀ [Σ31 − W Σ11] (W^(l−1) ⋯ W^1)ᵀ                                   (13)

With a decoupled start (W^l = R_(l+1) D R_lᵀ) and Σ11 = I (or Σ11 with the task's axes and variance d) the modes are
independent: ``τ u' = L u^(2 − 2/L) (s − d u)`` (15), for two layers ``u = s / (1 + (s/u0 − 1) e^(−2st/τ))`` (12); half
of a mode is learnt after ``τ/(2s) ln(s/u0 − 1)``, so strong modes are learnt first.
:mod:`~modules.dynamics.deep_linear.theory` also has the times for unequal layers (the paper's appendix prints that
formula a factor 2 off) and for infinite depth (17); :mod:`~modules.dynamics.deep_linear.initialisation` has the initial
weights; :mod:`~modules.dynamics.deep_linear.isometry` has random products and deep tanh networks (q ← g² E[tanh(√q
z)²]). With ``activation: tanh`` (and ``data.examples: true``) networks of the same shapes, W^L tanh(W^(L−1) ⋯ tanh(W^1
x)), are trained on the examples, and their modes are computed from Σ ŷ xᵀ
(:mod:`~modules.dynamics.deep_linear.nonlinear`).

Expected numbers (``reproduce deep_linear``, under 3 min): half-learning iterations of seven modes of hierarchical data
within 2 % of eq. 11 (the Euler steps' share), |u − eq. 12| below 0.005 s at λ s₁ = 0.004 and in proportion to λ. On
the digits, iterations to a threshold at N_l = 3, 5, 10, 20, 40: orthogonal starts 33, 33, 21, 14, 14, Gaussian 52, 59,
177, 307, 1,117, decoupled from 0.001 at 3, 5, 10: 59, 174, 433. Best rates fall from 0.18 to 0.03.

Cost: linear networks need no forward pass over examples; tanh networks forward all examples in each step. A step
multiplies matrices with a side of min(N_in, N_out), for all members together.

Composes with observers and with techniques that change values. Members are stored in tensors of three dimensions, so
techniques for linear layers have no effect.

Limits: full-batch gradient descent only. For tanh networks there is no theory here except the linear one and q.
"""

from modules.dynamics.deep_linear.module import DeepLinear

__all__ = ["DeepLinear"]
