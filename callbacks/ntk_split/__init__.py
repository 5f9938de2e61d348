"""NTK split: the tangent kernel where fine-tuning begins, in the part of the head and the part of the features.

Paper: Tomihari, Sato, 2024, "Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective",
NeurIPS, arXiv 2405.16747, Prop. 4.1 and tables 2, 9.

For f(x) = V φ(x) + b the kernel is P + F: P of the head, (⟨φ(x), φ(x')⟩ + 1) I_C, and F = V J J'ᵀ Vᵀ of the features.
On a random part of the training data, before the first step that trains a part of the backbone, are logged

- ``ntk_split/ft_ratio``: the mean over x of ‖Σ_i F δ_i‖ / ‖Σ_i (P + F) δ_i‖, δ_i what the probabilities miss: near 1
  the features do all of the work of a step (a probed head, which has little left to learn), near 0 the head does;
- ``ntk_split/rank_p``, ``rank_f``: of both as N C x N C matrices, in float64 at torch's tolerance;
- ``ntk_split/norm_p``, ``norm_f``: their Frobenius norms.

The spectrum of F is drawn. Expected (digits, 150 points, 5 classes): a random head 0.06 to 0.13, a probed one 0.999;
rank F 750 = N C of a random head, 600 = N (C − 1) of a probed one, whose rows sum to 0; rank P 325 = C (h + 1).

Works on any module whose output is that of a linear layer, each example by itself, with a datamodule; changes nothing.
Cost: C backward passes an example for each group of parameters, (N C)² numbers, once; a copy of the model in float64.
"""

from callbacks.ntk_split.callback import NTKSplit

__all__ = ["NTKSplit"]
