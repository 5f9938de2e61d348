"""Matrix sensing: how the width of the factors and the balance of their start decide the speed of gradient descent.

Paper: Xiong, Ding, Du, 2024, "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of
Symmetry and Initialization", ICLR, arXiv 2310.01769.

What it is for: understanding why gradient descent on factors of k > r columns converges slowly to a matrix of rank r
(recommenders, phase retrieval, adapters). Measured are ``y_i = <A_i, M>``; with D = A*(A(Z) − y):

    Z = X Xᵀ, ¼ |A(Z) − y|²:   X ← X − η sym(D) X                  k = r exponential, k > r as √(k − r) / (2 η T)
    Z = F Gᵀ, ½ |A(Z) − y|²:   F ← F − η D G,  G ← G − η Dᵀ F      exponential, k > r at a rate of the order of α²

F starts at scale α and G at α/3. Δ = FᵀF − GᵀG is conserved, and on the k − r directions N that G leaves the error
shrinks by 1 − η λ_min(Nᵀ Δ₀ N) a step: imbalance is what helps, and F₀ = G₀ is as slow as X Xᵀ. For a large start the
slowest is what F and G have beyond M's columns and rows, 1 − η σ_r(G)² and 1 − η σ_r(F)², which was found here. The
technique ``rebalance_factors`` (Section 5) takes α out of the rate.

Expected numbers (``reproduce matrix_sensing``, two minutes of one core; n = 50, r = 3, η = 0.1): 2 η T |error| / √(k −
r) between 0.998 and 0.999 for k = 4, 5, 7 after 20,000 steps; measured over predicted rates within 3 % of 1 for α from
0.2 to 1; with 1,500 measurements X Xᵀ falls as T^−0.95, and F Gᵀ after 6,000 steps is at 6e-6 for α = 0.2 and 3e-15
for α = 0.5. After the one step the rates at α = 0.05 and 0.2 are equal; without it they differ 15 times. Too few
measurements never recover: with 400 the error is 3e4 times that with 1,000.

Cost: two products with the m x n² operator a step, for all members at once (17 ms for six members at m = 1,500); none
with ``measurements: 0``, where A*A is the identity and 20,000 steps of twelve members take 2 s.

Composes with observers and with ``rebalance_factors``; techniques that look for linear layers find none.

Limits: noiseless measurements, full batches. The paper's grids of k, m, η and α are not known here; these are its n
and r.
"""

from modules.dynamics.matrix_sensing.module import MatrixSensing

__all__ = ["MatrixSensing"]
