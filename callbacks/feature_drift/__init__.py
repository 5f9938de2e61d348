"""Feature drift: how far fine-tuning moves the features of a classifier, and the norm of its head.

Paper: Tomihari, Sato, 2024, "Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective",
NeurIPS, arXiv 2405.16747 (tables of CS, Diff, FDR and Norm; definitions that it does not give are ours).

Logged for the validation (or test) data, before training and after each epoch, with φ the input of the linear head:

- ``feature_drift/cs``: mean cosine similarity of the features of two examples; near 1 they have collapsed;
- ``feature_drift/diff``: mean ‖φ(x) − φ₀(x)‖₂, φ₀ those before the training;
- ``feature_drift/fdr``: tr(S_W⁺ S_B), how well classes are separated (Fisher's criterion);
- ``feature_drift/norm``: ‖V‖_F.

It works with any module whose output is that of a linear layer (found automatically, or named) and a datamodule; it
does not change the model. Cost: a forward pass over the data per epoch; φ₀ is saved in the checkpoint. After an edit
that changes h, the features are compared with those right after the edit.
"""

from callbacks.feature_drift.callback import FeatureDrift

__all__ = ["FeatureDrift"]
