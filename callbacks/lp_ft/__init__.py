"""LP-FT: fits a linear head to the features of a pretrained model, then trains everything.

Paper: Tomihari, Sato, 2024, "Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective",
NeurIPS, arXiv 2405.16747; after Kumar et al., 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR, arXiv 2202.10054.

For a model f(x) = V φ(x) + b. Linear probing (LP) trains only V and b; fine-tuning (FT) from a random V changes the
features φ much, from a probed V little: a step changes the logits by η Σ (P + F) δ, with F quadratic in V, and the
features by a sum that is linear in V; and δ, the difference between targets and probabilities, is small from the start
(``ntk_split`` and ``feature_drift`` measure both). The probe is

- by default fitted: scikit-learn's ``LogisticRegressionCV`` (L2, ten strengths, five folds) on the features of the
  training data in ``eval`` mode, before training. For two classes, w becomes the rows −w/2 and +w/2;
- with ``probe_epochs: N`` trained: N epochs with the module's own loss, with everything except the head frozen and in
  ``eval`` mode, then a second stage with everything that was trainable before.

``strategy: lp`` keeps the backbone frozen until the end, ``strategy: ft`` only multiplies the head by ``head_scale``.

Works on any module whose output is that of a linear layer: timm's classifiers, encoders of transformers with a head,
your own; the head is found automatically, or named. Fresh weights and grown layers come first; ``lora`` and
``kappa_tune`` start when the probe is done (LP-LoRA), and decide what is trained: name the head in their
``trainable_modules`` (lora finds timm's by itself). In the second stage the optimiser starts again, with its own
settings if given, or (``optimizer: keep``) keeps the head's state.

Expected (``reproduce lp_ft``, a small MLP pretrained on digits 5-9, tuned on 150 digits 0-4): ‖V‖ goes from 1.3 to 39
and more; features then move 2 to 6 times less than from a random head at the same rate, and the test accuracy is about
3 points higher.

Cost: one pass over the training data and the fit, seconds for thousands of examples. A learning rate that is good for
FT is often too large for LP-FT. AdamW's weight decay shrinks the probed head: set it to 0.

Limits: class labels; a fitted probe needs a datamodule, ``cv`` examples of each class, and labels as the second part of
a batch (or ``y``). Random augmentation is drawn once for it.
"""

from callbacks.lp_ft.callback import LPFT
from callbacks.lp_ft.probing import probe

__all__ = ["LPFT", "probe"]
