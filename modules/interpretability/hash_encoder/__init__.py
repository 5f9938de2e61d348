"""Hash encoder: a ReLU classifier whose activation patterns are codes, nearly unique and separable by class.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490
(abstract, figures and official code, which have no thresholds of the regimes; ours are settings).

What it is for: how a ReLU network divides its inputs among linear regions, over width, training time and sample size.

    c(x) ∈ {0, 1}^D, c_j = 1[output of hidden unit j > 0], batch norm in evaluation mode
    RR = (n − m)/n for n examples with m distinct codes; m ≤ 2^D, and for a layer of w units in ℝ^d m ≤ Σ_{i≤d} C(w, i)
    purity = Σ_k max_c n_kc / n of K-means (K = classes, on the set that it is fitted to)
    K-NN (9, Hamming, uniform) and one-vs-one logistic regression (C = 1) fitted to training codes that vary

:class:`HashEncoder` trains the paper's perceptron with its recipe; the technique ``neural_code`` reads the codes of any
network; :mod:`~modules.interpretability.hash_encoder.regions` has the diameter of regions and inputs that are no data;
the sweep ``hash_phases`` with ``python -m modules.interpretability.hash_encoder.phases`` draws the phase chart.

Expected numbers (``reproduce hash_encoder``: 4,000 digits of MNIST, 1,000 to test, one layer, 60 epochs; seed 0):
train RR at widths 3, 7, 10, 15, 20, 30, 40, 60: 0.998, 0.971, 0.840, 0.414, 0.148, 0.021, 0.008, 0.001; test accuracy
of codes at widths 3, 20, 60, 100: K-NN 0.37, 0.80, 0.89, 0.93, logistic regression 0.43, 0.81, 0.88, 0.92, K-means
0.43, 0.66, 0.72, 0.75; of the network 0.76, 0.91, 0.94, 0.95. Width 20, six seeds, train RR: 0.19 to 0.34 at the
start, 0.42 to 0.51 after one epoch, 0.14 to 0.18 at the end. Test RR trained on ten digits 0.14 to 0.32, on 4,000
0.04 to 0.09: a ratio of means of 3.4, of 2.2 to 5.7 for each seed. Which ten come first matters (over the first three
orders alone it is 2.5; with seeds of the start alone, on one order, it was 2.6).

Cost: the quick config takes 3,780 steps, 0.5 to 1.5 minutes of one busy core; the claims are 20 such runs, 5.5 minutes
of processor in all, as many at a time as there are cores. Codes take an eighth of a byte for each bit.

Composes with other techniques as any classifier does. After edits that replace linear layers (LoRA, growing) codes
can still be read: activations are found where they are called.

Limits: RR depends on n: compare it only at equal n, never between training and test sets. K-means' purity is that of
the set it is fitted to, and no accuracy of a matching. The batch norm's running variance is torch's (unbiased). Not
built: the studies of IMDB, Adult and ImageNet.
"""

from modules.interpretability.hash_encoder.module import HashEncoder
from modules.interpretability.hash_encoder.network import BNReLUMLP

__all__ = ["BNReLUMLP", "HashEncoder"]
