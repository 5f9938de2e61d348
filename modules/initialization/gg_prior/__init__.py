"""Generalised-Gaussian prior: a classifier that reports the bits of its weights, and its accuracy when they are pruned.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486, versions 1 to 3); BackSlash: Rate Constrained Optimized Training of Large Language Models (Wu, Wen &
Han, ICML 2025, arXiv 2504.16968).

What it is for: weights of trained networks follow a generalised Gaussian of shape ν, p(w) ∝ exp(−(|w|/α)^ν), often with
ν below 2. A smaller ν at equal deviation means a shorter code. The paper's parts are techniques here, which work on any
model; this module measures their effect:

- ``gg_init`` draws fresh weights with a chosen ν;
- ``backslash`` pulls weights towards a shorter code after each optimiser step, −λ (ν/N) sign(w) (|w| + ε)^(ν−1);
- ``deep_shape`` remaps the histogram of trained weights to shape 0.8 ν and scale 0.6 α;
- ``rf8`` evaluates with weights of 8 bits, ±2^e1 ± 2^e2; ``python -m framework export`` writes weights in this format,
  or entropy coded.

This module is the image classifier with measurements of the weights at each validation and test: ``weights/shape`` (ν
of all parameters as one sample), ``weights/bits`` and ``weights/entropy`` (mean exp-Golomb bits of frequency ranks, and
the entropy, at step 2⁻¹³), ``weights/bits_10`` and ``weights/entropy_10`` (at 2⁻¹⁰), ``weights/sparsity`` (share that
2⁻¹³ rounds to 0), and in a test ``test/accuracy_pruned``, the accuracy with the smallest 80 % of all parameters at 0.

Expected, scikit-learn's digits (perceptron 64-128-128-10, AdamW 1e-3, batches of 64, 20 epochs with λ/N = 3e-4, 10
without; means of 3 seeds): with BackSlash ν falls from 2.56 to 0.65, exp-Golomb bits at 2⁻¹⁰ by 24 % (13.3 to 10.1),
at 2⁻¹³ by 17 %, without a loss of test accuracy (0.4 points better); with the smallest 80 % at 0 it keeps 97.1 %
instead of 91.5 %. RF8 does not reduce the accuracy. DeepShape saves 10 % of the bits of a network trained without
BackSlash (13.2 to 12.0; 12.3 after 5 epochs of further training), and 3 % after BackSlash (10.1 to 9.8). After
BackSlash, 5 further epochs without it lengthen the code, both with DeepShape (to 10.4) and without it (to 10.6), and
cost 0.5 points: on such a small network further training does harm. Paper: up to 90 % fewer bits at small loss on
language models; λ = 1000 costs 1.90 % of test accuracy.

Cost: some passes over the weights for each evaluation, 0.1 s for 1e7 of them; the pruned accuracy needs a second test.
Composes with every technique that works on linear layers, convolutions or attention of the backbone.

Limits: one label for each image. The paper's language models need its data and GPUs. Versions 4 and later of the paper
(ACT, GCT) are other methods with the same title.
"""

from modules.initialization.gg_prior.module import GGPrior, pruned, threshold_of, weight_report

__all__ = ["GGPrior", "pruned", "threshold_of", "weight_report"]
