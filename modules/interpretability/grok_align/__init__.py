"""GrokAlign: delayed generalisation and robustness, and a penalty on the input Jacobian that makes them come earlier.

Paper: Walker, Humayun, Balestriero, Baraniuk, 2025, "GrokAlign: Geometric Characterisation and Acceleration of
Grokking", arXiv 2506.12284.

What it is for: training networks that memorise long before they generalise (grokking), measuring how their Jacobians
become aligned with the data, and shortening the delay by the technique ``grok_align`` or the baseline ``grokfast``.

    f: R^d → R^C, J_x = ∂f/∂x; aligned at x: J_x = c xᵀ; centroid μ_x = J_xᵀ 1, alignment ⟨μ_x, x⟩ / (|μ_x| |x|)
    loss + λ mean_x sqrt(max(C |J_xᵀ v|², 1e-8)), v a random unit vector (the authors' program)

Among networks with bounded Jacobians of rank one the aligned ones fit best and are most robust; a growing |μ| keeps
them from alignment, so its size is penalised. Without biases ⟨μ_x, x⟩ = Σ_c f_c(x) in a ReLU net.

Parts: :class:`GrokMLP` on few images (:class:`~datamodules.interpretability.few_images.FewImages`), started at 8 times
PyTorch's weights; :class:`XORNet` on XOR clusters; :class:`GrokConvNet` on CIFAR-10; :class:`ModAddTransformer` on
addition modulo 113. The techniques ``grok_align``, ``grokfast``, ``centroid_alignment``, ``grokking_delay`` and
``robustness`` work on any module. **A step of the paper's image experiments is an epoch**, of four updates;
``grokking_delay`` counts in such units with ``steps_per_unit: 4``. An epoch of the Trainer has ``passes`` of them, and
ends with a validation.

Expected numbers, seeds 0 to 2: on XOR clusters (p = 4,000, width 128) the noisy test set is classified after 115, 120
and 140 steps with λ = 0.3, after 160, 170 and 185 without; on 512 digits memorisation takes about 50 passes, and test
accuracy 0.85 about 2,000 with λ = 0.001 beside a weight decay of 0.01, near 6,000 without it.

Cost: a step with the penalty takes two to three times as long (``benchmarks/grok_align.py``).

Composes with every technique that works on linear layers or convolutions.

Limits: the authors' weight decay of 0.01 is a weak baseline. Tuned in six trials on another seed and split
(``sweeps/grok_align_weight_decay``) it is 3, and generalises after about 80 passes, sooner than GrokAlign at any
strength beside 0.01: tuned in as many trials (``sweeps/grok_align_strength``) λ is 1, which takes about 300. **So the
claim against the tuned baseline fails**, and ``reproduce`` says so. It does not fail for want of tuning: with six
trials more, of λ beside the decay of 3, the best takes as long as that decay alone (90 passes on the tuning's split for
λ up to 0.3; with 1 and 3 accuracy 0.85 is not reached in 600). Beside a decay of 1 the penalty helps (150 passes with
λ = 1, 210 without).
"""

from modules.interpretability.grok_align.module import GrokConvNet, GrokMLP, ModAddTransformer, XORNet
from modules.interpretability.grok_align.networks import BiasFreeConvNet, BiasFreeMLP, LastTokenTransformer

__all__ = [
    "BiasFreeConvNet",
    "BiasFreeMLP",
    "GrokConvNet",
    "GrokMLP",
    "LastTokenTransformer",
    "ModAddTransformer",
    "XORNet",
]
