"""GAMP-RIE: the Bayes-optimal error of a quadratic network of extensive width, and an algorithm that reaches it.

Paper: Maillard, Troiani, Martin, Krzakala, Zdeborová, 2024, "Bayes-optimal Learning of an Extensive-Width Neural
Network from Quadratically Many Samples", NeurIPS, arXiv 2408.03733.

What it is for: the best possible error for learning a two-layer network with quadratic activation and m = κd hidden
units from n = αd² samples, an algorithm that reaches it, and gradient descent on the same data. Labels depend only on S
= WᵀW/m; centred, they are ỹ_i = Tr(Z_i S) + √Δ̃ ξ_i with Z_i = (x_i x_iᵀ − I)/√d. Errors are κ|S − Ŝ|²/d, 1 at α = 0.

- :mod:`~modules.dynamics.gamp_rie.spectrum`: the spectrum of S + √t GOE, from a cubic equation for its Stieltjes
  transform; outside the bulk the root with x'(g) < 0 and the smallest |g| is taken.
- :mod:`~modules.dynamics.gamp_rie.denoiser`: f_RIE(R, t) = U diag(λ − 2 t h_t(λ)) Uᵀ and its error F_RIE.
- :mod:`~modules.dynamics.gamp_rie.state_evolution`: MMSE = κ(2α/q̂ − Δ̃/2); without noise it is zero for α of κ − κ²/2
  and more.
- :mod:`~modules.dynamics.gamp_rie.gamp`: the damped iteration, which never builds Z: O(n d²) and one
  eigendecomposition.

:class:`GampRie` runs this iteration. :class:`QuadraticNet` does gradient descent on Σ (ŷ − √m y)²/4 from many starts at
a rate of 0.5/(1 + αd) and averages the solutions. The equations come from the authors' code and were derived again.

Expected numbers (``reproduce gamp_rie``): the noiseless MMSE table to 5e-6; the error of GAMP-RIE at d = 100, four
seeds, divided by the MMSE: 1.00, 1.01, 1.01, 1.03 at κ = 0.5, α = 0.15 to 0.3, 1.01 and 1.06 with Δ̃ = 0.5, 1.02 at κ =
1; above α_PR errors of 6e-4 at d = 60. The error of gradient descent at d = 40, 12 starts and eight teachers, divided
by that of GAMP-RIE on the same data: 1.97, 2.05 and 2.34 at α = 0.1, 0.2 and 0.3; the average over the starts,
corrected for their finite number, has 0.91, 0.96 and 1.02 of GAMP-RIE's error and 1.02, 1.14 and 1.24 of the MMSE: at d
= 40 GAMP-RIE itself is 11 to 22 % above the limit and not optimal. On whitened digits, which are not Gaussian, the
error stays at 0.11 (d = 30, α = 0.45), where S is recovered on Gaussian data.

A run writes ``estimate.npz`` (Ŝ, their average, and W with WᵀW/m closest to Ŝ); ``predict`` writes ŷ of each sample.

Cost: an iteration at d = 100, n = 2,500: 10 ms; a point of the theory: some ms.

Composes with observers; techniques for linear layers have no effect.

Limits: Gaussian output noise only. Users' data must be whitened; on covariates that are not Gaussian the theory does
not hold. Averages over 64 starts at d = 200, as in the paper, need hours on a CPU.
"""

from modules.dynamics.gamp_rie.module import GampRie, QuadraticNet

__all__ = ["GampRie", "QuadraticNet"]
