"""S4D: diagonal state space models for long one-dimensional signals.

Paper: On the Parameterization and Initialization of Diagonal State Space Models (Gu, Gupta, Goel, Ré; NeurIPS 2022;
arXiv 2206.11893)

What it is for. Sequence layers for audio, bio-signals, images read pixel by pixel and long token streams: a parallel
FFT convolution in training, an O(N) recurrence per sample in inference, and other sampling rates without retraining.

Equations. Each of H channels runs ``x' = A x + B u``, ``y = 2 Re(C x) + D u`` with N/2 complex modes whose conjugates
are implied. Discretised with a step Δ per channel (eq. 6; ZOH or bilinear) its kernel is the Vandermonde product
``K_l = 2 Re Σ_n C_n B̄_n Ā_n^l`` (eq. 7). Initialisations: S4D-Inv (eq. 8), S4D-Lin (eq. 9), S4D-LegS (normal part of
HiPPO-LegS; Theorem 3: its basis tends to HiPPO's), S4D-Real, and the ablations of the paper. ``disc: dss`` is the
row-softmax kernel of DSS (Gupta et al. 2022); the original also has ``real_transform: none`` and ``init: legs``. Δ, A
and B are trained at a rate of 1e-3 or less without weight decay; other parameters at the optimiser's rate.

Parts. :class:`S4DLayer` (``forward``, ``step``, ``scan``) and the functions in ``kernel``, ``convolution``,
``initialisations`` and ``memory`` work without Lightning. :class:`S4DClassifier` and :class:`S4DRegressor` accept
batches ``(x, y)`` or ``(x, y, lengths)``; x is (B, L, d_input), or tokens (B, L) with ``vocabulary``.

Expected. Test accuracy on 5,000 MNIST digits pooled 2x2 (L=196; 4,000 to train), 2 blocks of 48, 3 epochs, three seeds:
Lin 0.888, 0.866, 0.868; Inv 0.863, 0.884, 0.888; LegS 0.899, 0.881, 0.915; random imaginary parts 0.752, 0.826, 0.821;
Real 0.473, 0.629, 0.497 (about 20 CPU-seconds each). Ten epochs at 64 channels (``sequence/s4d``): Lin 0.956.
R² of reading the input 256 samples ago from frozen modes (N=64, Δ=1/256): Lin 0.843, Inv 0.909, LegS 0.903;
Real 0.180, random imaginary parts 0.137, Lin x 0.01 0.113, Lin x 100 0.044. The paper's own results at full scale
(sCIFAR: Lin 90.42 %, Inv 90.69 %, LegS 89.92 %) need a GPU and have not been run here.

Cost. The kernel takes H·N/2·L multiply-adds as one batched matrix product and stores O(H·N/2·sqrt(L)) exponentials; the
plain sum stores H·N/2·L complex ones. Forward and backward on one CPU core (H=64, N=64): 20 to 100 times faster with 13
to 34 times less memory for L=1,024 to 16,384 (``benchmarks/s4d.py``). The convolution takes six FFTs of length 2L for
each channel of a batch, forward and backward.

Composes with. KernelPlot, MemoryProbe and RateTransfer (through the protocols of ``framework.protocols``), and
techniques for ``nn.Linear`` (encoder, mixing and head). With bf16-mixed, kernels and transforms stay in float32.

Limits. Double backward through the convolution raises an error. A random spectrum or S4D-Real gives much worse results,
as in the paper. S4D-Lin fails Path-X in the paper. The range of Δ must suit the length: 1/Δ should cover 10 … L
samples. The phase of LegS eigenvectors is fixed by a real first entry, so that clipping ``|Im B|`` at 2 gives the same
result everywhere; in other code it depends on the phase that LAPACK returns. Under DSS the kernel depends on the length
of the input unless ``ssm.dss_length`` is given.
"""

from modules.sequence.s4d.layer import SSM, S4DLayer
from modules.sequence.s4d.module import S4DClassifier, S4DRegressor

__all__ = ["SSM", "S4DClassifier", "S4DLayer", "S4DRegressor"]
