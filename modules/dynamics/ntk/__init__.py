"""NTK: how far a network is from the kernel regime, and what the infinite-width limit predicts for its training.

Paper: Jacot, Gabriel, Hongler, 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
NeurIPS, arXiv 1806.07572.

What it is for: the limit kernels of MLPs, the kernel of a finite network at any time, and predicted training curves.

    pre^{l+1} = W^l a^l / √n_l + β b^l;  Θ(x, y) = Σ_p ∂_p f(x) ∂_p f(y);  Θ^{l+1} = Θ^l E[σ'σ'] + Σ^{l+1}  (Thm 1)
    f_k = y + (I − η K/N)^k (f_0 − y) on the data, for the cost (1/2N) Σ (f(x_i) − y_i)²  (Thm 2, discrete)

:class:`NTKMLP` has several members and computes its kernel layer by layer. The other parts work with any model: limit
kernels, kernels of any module and predictions in :mod:`framework.functional.ntk`; the technique ``ntk_monitor``
measures the kernel on a probe in any run.

Expected numbers (``reproduce ntk``): drift in 200 steps at n = 500 (10 starts) over n = 2,000 (2 starts): 4.7;
inflation 1.51 at n = 100 (10 starts on each of 5 draws of the inputs) and 1.02 at n = 2,000; error of the first kernel
at n = 10,000 (1) over n = 100: 0.09; 60 networks with n = 50 at γ = 0.9 are 0.6 standard errors from the limit's mean,
with 0.94 of its deviation; along the second component of 512 digits |g| after 250 steps is 1.07 of the prediction at
n = 1,000 (1 start), and ‖h‖ 3.0 times larger at n = 100. At n = 100 drift and inflation depend on the draw of the 100
inputs more than on the probe: on three draws inflation was 1.51, 1.68 and 1.27 over 33 × 33 points of the circle, 1.47,
1.69 and 1.31 over the row of (1, 0), single networks between 0.98 and 1.92; the value 1.89 was found elsewhere on one
draw.

Cost: a kernel O(N n² + N² n) per member without any Jacobian; ``reproduce ntk`` took 84 s of one core.

Composes with observers; other techniques change the network, and the theory no longer holds.

Limits: the prediction is for plain full-batch gradient descent at a constant rate below 2 / λ_max(K/N).
"""

from modules.dynamics.ntk.mlp import NTKMLP
from modules.dynamics.ntk.module import NTKRegression

__all__ = ["NTKMLP", "NTKRegression"]
