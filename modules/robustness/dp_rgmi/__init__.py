"""DP-RGMI: why private training costs accuracy, seen in the geometry of embeddings and in what a fresh probe gains.

Paper: Tayebi Arasteh, Mohammadi, Nebelung, Truhn, 2026, "Differential privacy representation geometry for medical image
analysis", MICCAI, arXiv 2603.01098 (abstract, summaries and the authors' code; its tables were not read).

What it is for: a classifier of radiographs is trained with differential privacy and gets worse. Did the encoder lose
the information, or does its head, trained with the same noise, not use it? Each start and privacy budget has three
numbers, all on the same test examples and the same bootstrap resamples:

    displacement          Δ = mean |z_i − z_i⁰|²,  z = f(x) / |f(x)|, z⁰ before training;  in [0, 4]
    effective dimension   d = tr(Σ)² / |Σ|_F²,  Σ the covariance of the z_i;  in [1, D]
    utilisation gap       G = U_probe − U_end-to-end,  U = mean over labels of the AUROC

U_probe is that of one logistic regression for each label (L2, C = 1, liblinear) on the training embeddings. G > 0: what
the encoder separates the head does not use.

:class:`MultiLabelClassifier` has any timm backbone and a fresh head, and starts from random weights, a file, or
supervised training on the public images of its datamodule. The techniques ``representation_geometry`` and
``utilization_gap`` measure any module with a head; ``dp_sgd`` makes the training private. The table over budgets and
starts is the sweep ``sweeps/dp_rgmi``, read by ``python -m modules.robustness.dp_rgmi.study sweeps/dp_rgmi``: rows,
associations (Spearman, Pearson, with intervals) and figures. Data: attributes of digits, by default 5,000 of MNIST
(``DigitAttributes``), radiographs by their tables (``ChestXrays``), or drawn ones (``ChestPhantom``).

**The diagnostics are not part of the private release**: probes are fitted to private data without noise, geometry is
that of raw examples. Each report says so. ``last.ckpt`` has the embeddings of the start.

Expected numbers (the runs of ``reproduce dp_rgmi``: 4,000 of MNIST's digits to train on, 24,000 weights, 15 epochs,
clipping norm 1, pretrained on pieces of 16 photographs; means over three seeds, and their range; clipped: one seed):

    budget   AUROC                   of the probe   gap                     Δ                    d
    none     0.983                   0.984          0.001 (0.000 to 0.001)  1.05 (1.01 to 1.08)  4.10 (3.88 to 4.30)
    clipped  0.966                   0.971          0.005                   1.36                 3.72
    ε 8      0.837 (0.834 to 0.840)  0.900          0.063 (0.059 to 0.066)  0.68 (0.58 to 0.87)  2.66 (2.40 to 2.89)
    ε 2      0.815 (0.800 to 0.826)  0.888          0.073 (0.056 to 0.090)  0.57 (0.45 to 0.76)  2.57 (2.14 to 2.93)
    ε 0.5    0.761 (0.745 to 0.784)  0.863          0.102 (0.086 to 0.118)  0.51 (0.24 to 0.88)  2.51 (2.01 to 2.83)

The probe before training has 0.826, d is 2.19. From random weights (probe 0.804 to 0.829, d 7.4 to 13.2): none 0.987,
0.986, 0.000, 0.99, 4.04; clipped 0.974, 0.976, 0.003, 1.09, 4.05; ε 2 0.806, 0.885, 0.079 (0.063 to 0.096), 0.73, 2.51.
Over these 18 checkpoints (clipped aside) the rank correlation of AUROC and gap is -0.94 (-0.99 to -0.78), of AUROC and
Δ 0.65, of AUROC and d 0.79. Pretrained on Fashion-MNIST (probe 0.860, d 6.77; seed 0): none 0.987, 0.987, 0.000, 0.80,
4.24; ε 8 0.889, 0.932, 0.043, 0.62, 3.51; ε 2 0.854, 0.915, 0.061, 0.53, 3.54; ε 0.5 0.816, 0.893, 0.077, 0.43, 4.17.
So noise, not clipping, makes the gap, which grows as ε falls, while the probe stays above its start. In single runs d
falls and rises again (with photographs in two of three); its mean over seeds only falls there.

Cost: a private run of the quick config takes half a minute of one core, without privacy 12 s; the observers add 2 s.

Composes with other techniques as any classifier does; batch norm is refused by ``dp_sgd``.

Limits: compare at equal numbers of examples only, for d depends on them; the bootstrap's mean of d is biased low, read
the point. Weights of positives counted on private labels (``pos_weight: balanced``) are covered by no guarantee. Unlike
in the authors' code nothing is chosen on the test part. Not run here: real radiographs and ConvNeXt. DINOv3 and other
weights are given as a file.
"""

from modules.robustness.dp_rgmi.module import MultiLabelClassifier

__all__ = ["MultiLabelClassifier"]
