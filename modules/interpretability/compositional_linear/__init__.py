"""Compositional linear: do embeddings have the additive, orthogonal geometry that unseen combinations require?

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.
"""

from modules.interpretability.compositional_linear.encoders import ConvEncoder, ImageEncoderConfig
from modules.interpretability.compositional_linear.free import FreeEmbeddings
from modules.interpretability.compositional_linear.module import CompositionalLinear

__all__ = ["CompositionalLinear", "ConvEncoder", "FreeEmbeddings", "ImageEncoderConfig"]
