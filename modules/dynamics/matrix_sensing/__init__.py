"""Matrix sensing: how the factors' width and the balance of their initial values decide gradient descent's speed.

Paper: Xiong, Ding, Du, 2024, "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of
Symmetry and Initialization", ICLR, arXiv 2310.01769.

What it is for: understanding why gradient descent on factors of k > r columns converges slowly to a matrix of rank r
(recommenders, phase retrieval, adapters). The measurements are ``y_i = <A_i, M>``; with D = A*(A(Z) − y):

    Z = X Xᵀ, ¼ |A(Z) − y|²:   X ← X − η sym(D) X                  k = r exponential, k > r as √(k − r) / (2 η T)
    Z = F Gᵀ, ½ |A(Z) − y|²:   F ← F − η D G,  G ← G − η Dᵀ F      exponential, k > r at a rate of the order of α²

F starts at scale α and G at α/3. Δ = FᵀF − GᵀG is conserved. On each of the k − r redundant directions N one factor
vanishes, G where Nᵀ Δ₀ N is positive (for G smaller than F that is everywhere, if k ≤ n), F where it is negative. The
error is multiplied by 1 − η min |λ(Nᵀ Δ₀ N)| in each step: imbalance helps, and F₀ = G₀ is as slow as X Xᵀ. For a large
start the slowest parts are those of F and G outside M's column and row space, with factors 1 − η σ_r(G)² and
1 − η σ_r(F)²; for small n, or k > n, see :func:`~modules.dynamics.matrix_sensing.theory.predicted_rate` (both found
here, not in the paper). The technique ``rebalance_factors`` (Section 5) makes the rate independent of α.

Expected numbers (``reproduce matrix_sensing``, two minutes of one core; n = 50, r = 3, η = 0.1): 2 η T |error| / √(k −
r) between 0.998 and 0.999 for k = 4, 5, 7 after 20,000 steps; measured divided by predicted rates within 3 % of 1 for α
from 0.2 to 1; with 1,500 measurements X Xᵀ falls as T^−0.95, and F Gᵀ after 6,000 steps is at 6e-6 for α = 0.2 and
3e-15 for α = 0.5. After the technique's one rebalancing step the rates at α = 0.05 and 0.2 are equal; without it they
differ by a factor of 15. With too few measurements M is not recovered: with 400 the error is 3e4 times that with 1,000.

Cost: two products with the m x n² operator in each step, for all members together (17 ms for six members at m = 1,500);
none with ``measurements: 0``, where A*A is the identity and 20,000 steps of twelve members take 2 s.

Composes with observers and with ``rebalance_factors``; techniques for linear layers have no effect.

Limits: noiseless measurements, full batches. The paper's grids of k, m, η and α are not known here; these are its n
and r.
"""

from modules.dynamics.matrix_sensing.module import MatrixSensing

__all__ = ["MatrixSensing"]
