"""Naive Bayes or logistic regression: which linear head on frozen features is better for how many labels.

Paper: Zheng, Wu, Bao, Cao, Li, Zhu, 2023, "Revisiting Discriminative vs. Generative Classifiers: Theory and
Implications", ICML, arXiv 2302.02334.

What it is for: choosing a linear head on a frozen encoder with few labels. Both heads are linear rules on the same
features, so only the fit differs, and their learning curves may cross.

    generative: x | k ~ N(μ_k, diag v), v = Σ_k p_k s_k pooled:  w_k = μ_k / v,  b_k = log p_k − ½ Σ_i μ_ki² / v_i
    discriminative: min ½ ‖W‖² + C Σ_i CE(y_i, W x_i + b)
    R_01 − R*_01 ≤ √(2 (R_log − R*_log)), from Pinsker's inequality

Naive Bayes is close to its best error after O(log n) samples if β is bounded below and α above (``assumptions.npz``),
logistic regression after O(n) (Section 4). :class:`GaussianHead` fits naive Bayes in one epoch with any batches,
:class:`LogisticHead` fits logistic regression by L-BFGS or SGD. Functions for any features are in
:mod:`framework.functional.linear_heads`, and the technique ``probe_heads`` plots both curves for a layer of any
classifier.

Expected numbers (``reproduce discriminative_generative``): in the paper's simulation with two classes naive Bayes is
within 0.01 of the smallest error after 8 points for n = 100 and for n = 1,000 (20 draws), logistic regression after
113, 244, 427, 1,065 for n = 100, 200, 400, 1,000 (5 draws, minimised until convergence; in the one draw examined,
scikit-learn's default tolerance stopped early and needed 1.5 times as many at n = 1,000). With coordinates scaled to
[0, 1] it needs 4: the gap in the simulation comes from the scale. On features of a small CNN (digits, 20 draws) naive
Bayes, logistic regression with C = 1 and with C = 10 err on 0.117, 0.133, 0.121 with 50 labels, 0.089, 0.083, 0.084
with 100, 0.069, 0.052, 0.055 with 1,000; on Fashion-MNIST 0.216, 0.237, 0.236, then 0.192, 0.188, 0.197, then 0.175,
0.151, 0.155. **The two regimes depend on the network**: over three of them, digits have a crossover with two (at 59 and
65 labels; with the third naive Bayes is never ahead), Fashion-MNIST with all (88 to 187), where naive Bayes leads by
0.020 with 50 labels, but by 0.000 (-0.004 to 0.005) with 100, for an expected 0.01, and logistic regression by 0.0198
(0.012 to 0.024) with 1,000, for 0.02. With C = 0.1 logistic regression is much worse up to 100 labels, so compare
several C. With 20 labels it is better than naive Bayes at C = 10 on both data sets. If the features do not fit the task
(raw pixels, another data set's CNN) naive Bayes is never better.

Cost: naive Bayes O(m n), logistic regression O(m n K) for each of about 100 iterations; features are computed once.

Composes with ``probe_heads`` and observers. Techniques that change weights have nothing to train in a Gaussian head.

Limits: the paper's seven backbones and their features of CIFAR are not included; use a file of features, timm's models
or checkpoints of this project instead. Its constants for bounded linear hypotheses are not implemented.
"""

from modules.finetuning.discriminative_generative.module import GaussianHead, LogisticHead

__all__ = ["GaussianHead", "LogisticHead"]
