"""Transformer: a causal language model with softmax attention, as a base and for comparison with linear-time models.

Paper: none; the layout is Llama's (Touvron et al. 2023, arXiv 2302.13971).

What it is for: to compare a token mixer against, and to start from what is turned into a linear-time model afterwards.
Pre-norm blocks with RMSNorm, rotary positions, queries that may share keys and values, SwiGLU, no biases; names of the
projections are Llama's, so techniques that name layers (``q_proj``) find them.

Cost: n² in the sequence in training, a key and a value for each token so far in decoding.

Composes with every technique that works on linear layers.

Limits: no dropout; positions beyond the training length are extrapolated by the rotation alone.
"""

from modules.sequence.transformer.module import TransformerLM

__all__ = ["TransformerLM"]
