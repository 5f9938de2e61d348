"""Transformer: a causal language model with softmax attention, as a base and for comparison with linear-time models.

Paper: none; the layout is Llama's (Touvron et al. 2023, arXiv 2302.13971).

What it is for: a baseline for other token mixers, and a pretrained model to be converted into a linear-time model. It
has pre-norm blocks with RMSNorm, rotary positions, queries that may share keys and values, SwiGLU and no biases.
Projections have Llama's names, so techniques find layers by these names (``q_proj``).

Cost: n² in the sequence length in training; decoding stores a key and a value for each token so far.

Composes with every technique that works on linear layers.

Limits: no dropout; beyond the training length positions are only extrapolated by the rotation.
"""

from modules.sequence.transformer.module import TransformerLM

__all__ = ["TransformerLM"]
