"""Feature drift: how far fine-tuning moves the features of a classifier, and the norm of its head.

Paper: Tomihari, Sato, 2024, "Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective",
NeurIPS, arXiv 2405.16747 (tables of CS, Diff, FDR and Norm; the definitions are ours where it gives none).

Of the validation (or test) data, before the training and after each epoch, with φ what the linear head is fed:

- ``feature_drift/cs``: mean cosine similarity of the features of two examples; near 1 they have collapsed;
- ``feature_drift/diff``: mean ‖φ(x) − φ₀(x)‖₂, φ₀ those before the training;
- ``feature_drift/fdr``: tr(S_W⁺ S_B), how well classes are told apart (Fisher's criterion);
- ``feature_drift/norm``: ‖V‖_F.

Works on any module whose output is that of a linear layer (found, or named), with a datamodule; changes nothing.
Cost: a forward pass over the data an epoch; φ₀ is kept in the checkpoint. From an edit on that changes h, the features
are compared with those right after it.
"""

from callbacks.feature_drift.callback import FeatureDrift

__all__ = ["FeatureDrift"]
