"""DP-RGMI: why private training costs accuracy, seen in the geometry of embeddings and in a probe's gain.

Paper: Tayebi Arasteh, Mohammadi, Nebelung, Truhn, 2026, "Differential privacy representation geometry for medical image
analysis", arXiv 2603.01098.
"""

from modules.robustness.dp_rgmi.module import MultiLabelClassifier

__all__ = ["MultiLabelClassifier"]
