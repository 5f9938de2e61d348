"""NTK split: the tangent kernel at the start of fine-tuning, split into the parts of the head and of the features.

Paper: Tomihari, Sato, 2024, "Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective",
NeurIPS, arXiv 2405.16747, Prop. 4.1 and tables 2, 9.

For f(x) = V φ(x) + b the kernel is P + F: P of the head, (⟨φ(x), φ(x')⟩ + 1) I_C, and F = V J J'ᵀ Vᵀ of the features.
Logged on a random part of the training data, before the first step that trains a part of the backbone:

- ``ntk_split/ft_ratio``: the mean over x of ‖Σ_i F δ_i‖ / ‖Σ_i (P + F) δ_i‖, δ_i the residual of the probabilities:
  near 1 a step's effect comes from the features (with a probed head, which has little left to learn), near 0 from the
  head;
- ``ntk_split/rank_p``, ``rank_f``: their ranks as N C x N C matrices, in float64 at torch's tolerance;
- ``ntk_split/norm_p``, ``norm_f``: their Frobenius norms.

The spectrum of F is drawn. Expected (digits, 150 points, 5 classes): a random head 0.07 to 0.49 over 24 seeds, with a
median of 0.19, and a probed one 0.9995 or more over four; rank F 750 = N C for a random head, 600 = N (C − 1) for a
probed one, whose rows sum to 0; rank P 325 = C (h + 1).

It works with any module whose output is that of a linear layer and whose examples are independent, and a datamodule; it
does not change the model. Cost: C backward passes per example for each group of parameters, (N C)² numbers, once; a
copy of the model in float64.
"""

from callbacks.ntk_split.callback import NTKSplit

__all__ = ["NTKSplit"]
