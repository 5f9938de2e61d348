"""Generalization dynamics: training and test error of a student at every time, from the size and noise of the data.

Paper: Advani, Saxe, Sompolinsky, 2020, "High-dimensional dynamics of generalization error in neural networks", Neural
Networks 132, arXiv 1710.03667.

What it is for: choosing the training time, the network's size and the initialisation's scale from the number of
examples and the noise of their labels, and understanding why the error is largest if there are as many parameters as
examples. A linear student of a noisy linear teacher, ``dw/dt = (y − w X) Xᵀ``, in the limit of many inputs at α = P/N
examples each (noise of variance 1, teacher weights of variance SNR, first weights of variance INR, ρ Marchenko-Pastur's
density of X Xᵀ):

    E_g(t) = 1 + ∫ ρ [(SNR + INR) e^(−2λt) + (1 − e^(−λt))² / λ] dλ + (1 − α)₊ (SNR + INR)
    E_t(t) = (1/α) ∫ ρ [(SNR + INR) λ + 1] e^(−2λt) dλ + (1 − 1/α)₊

:mod:`~modules.dynamics.generalization_dynamics.theory` has these, the best stopping time, the final error and the error
of ridge regression; :mod:`~modules.dynamics.generalization_dynamics.students` the exact gradient flow for any data
(weights do not change in directions without examples), random ReLU features, and the parts of their error
(approximation, null space, over-fitting). ``HiddenLayerStudent`` trains on such features of many widths together, or
trains all layers (config ``generalization_dynamics_features``). The equations were derived from the paper's model; only
parts of its text were read.

Expected numbers (``reproduce generalization_dynamics``, a minute): the best stopping time and error at nine pairs of
SNR and α, for example 3.067 and 2.838 at SNR 5, α = 1 (with the best ridge penalty 2.791; the final error is infinite);
simulations of 20 draws at N = 200 within 2.3 standard errors. Random features on 300 digits with flipped labels: the
late test error is 160 times larger at 300 features than at 200 or 600, with early stopping it decreases with the width,
from 0.54 to 0.33.

Cost: one eigendecomposition for each draw; a closed form takes 4,000 quadrature nodes, more if α is near 1 and t is
large.

Composes with observers; techniques for linear layers have no effect.

Limits: there is no theory here for networks with all layers trained, which are a control. The paper's experiments on
MNIST were not run.
"""

from modules.dynamics.generalization_dynamics.hidden_layer import HiddenLayerStudent
from modules.dynamics.generalization_dynamics.module import LinearStudent

__all__ = ["HiddenLayerStudent", "LinearStudent"]
