"""Compositional linear: do embeddings have the additive, orthogonal geometry that unseen combinations require?

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.

What it is for: given an encoder and images labelled with the values of k concepts, how close its embeddings are to that
geometry, whether linear probes on few combinations of values read the others, and which geometry losses alone produce.

    z_c ≈ z̄ + Σ_i u_{i, c_i}                          factors: means of a complete grid, else least squares
    R² = 1 − Σ|z − z̄ − Σ_i u_{i, c_i}|² / Σ|z − z̄|²      projected: in the span of the probes' weights; whitened there
    |cos(u_{i,a}, u_{j,b})|, mean over a and b         between concepts i ≠ j, and within one, i = j, a ≠ b
    k95: directions that hold 95 % of Σ_j |u_{i,j}|²
    binary concepts, orthogonal D_i = u_{i,1} − u_{i,0}: every valid support has the max-margin readouts 2 D_i/|D_i|²

:class:`CompositionalLinear` trains the probes of all concepts on a trained or a frozen encoder; the technique
``concept_geometry`` measures any encoder in training; ``python -m modules.interpretability.compositional_linear.survey``
compares encoders (pixels, a CNN, timm's and your own with local weights) on kept embeddings; :class:`FreeEmbeddings`
trains embeddings without an encoder, all dimensions and seeds at once; ``theory`` has the readouts. The scores take bare
arrays: ``framework.functional.linear_factors``. Splits are of combinations, never of samples, and the probes' penalty is
chosen on held-out combinations of training; results say whether features are ``pre`` or ``post`` the projection.

Expected numbers: EXPECTED

Cost: COST

Composes with other techniques as any classifier of several targets does.

Limits: factors of an incomplete grid are determined only if its combinations are connected (``identified``). Here the
probes are fitted by full-batch Adam on centred and scaled embeddings from zero; the paper's are by mini-batches on raw
ones, keep the best state of a validation set and have no penalty (``compositional_linear_paper`` trains those). The
temperature of the paper's spherical runs is not given: here it is learnt, from 10. Orthogonality is of the original
space, as in the paper; its code also reports the projected one. CLIP, SigLIP and DINO need weights of yours.
"""

from modules.interpretability.compositional_linear.encoders import ConvEncoder, ImageEncoderConfig
from modules.interpretability.compositional_linear.free import FreeEmbeddings
from modules.interpretability.compositional_linear.module import CompositionalLinear

__all__ = ["CompositionalLinear", "ConvEncoder", "FreeEmbeddings", "ImageEncoderConfig"]
