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

- :class:`CompositionalLinear` trains the probes of all concepts on an encoder that is trained with them or frozen.
- The technique ``concept_geometry`` measures any encoder in training.
- ``python -m modules.interpretability.compositional_linear.survey`` compares encoders on kept embeddings: pixels, the
  CNN, runs of this project, timm's models, also with your weights.
- :class:`FreeEmbeddings` trains embeddings without an encoder, all dimensions and seeds at once.
- ``framework.functional.linear_factors`` has the scores, which take bare arrays; ``theory`` the readouts.

Splits are of combinations, never of samples; the probes' penalty is chosen on held-out combinations of training;
results say whether features are ``pre`` or ``post`` the projection.

Expected numbers (``reproduce compositional_linear``): of 7,500 rendered shapes with six factors, the CNN with random
weights has a whitened R² of 0.21 to 0.24 over three seeds, and probes on a tenth of the combinations read 0.55 to
0.61 of the others; trained for 8 epochs on half of the combinations 0.40 to 0.44, and 0.79 to 0.84; pixels 0.33 and
0.65. Over six encoders the ranks agree (correlation 1.0). |cos| between concepts falls from 0.23 to 0.13–0.19. Free
embeddings after 2,000 steps, sixteen seeds: softmax in Euclidean space R² 0.71 to 0.96, one-vs-rest on the sphere 0.98
to 1.00; |cos| between concepts at most 0.22 with 1 within (n = 2), and for softmax with n = 6 0.12 to 0.19 with 0.23
to 0.27: a ratio of 0.64 on average over 32 seeds, 0.48 to 0.93 for one, where 0.6 was expected (**that claim depends on
the seeds**), and below 0.35 in the other cells. Least dimensions at n = 6: k for softmax, 2k for one-vs-rest.

Cost: the quick config takes 50 s of one core, most of it for the probes of five looks; the claims about 4 minutes. To
measure 180,000 embeddings of 768 dimensions takes some 3 GB and, by the probes' products, ten minutes of one core.

Composes with other techniques as any classifier of several targets does.

Limits: scores compare an encoder with itself in training better than encoders with each other: on these simple shapes
timm's resnet10t with random weights (512 dimensions) has 0.45 and 0.85, as good as the trained CNN. Factors of an
incomplete grid are determined only if its combinations are connected (``identified``). Here the probes are fitted by
full-batch Adam on centred and scaled embeddings from zero; the paper's are by mini-batches on raw ones, keep the best
state of a validation set and have no penalty (``compositional_linear_paper`` trains those). The temperature of the
paper's spherical runs is not given: here it is learnt, from 10. Orthogonality is of the original space, as in the
paper; its code also reports the projected one. CLIP, SigLIP and DINO need weights of yours.
"""

from modules.interpretability.compositional_linear.encoders import ConvEncoder, ImageEncoderConfig
from modules.interpretability.compositional_linear.free import FreeEmbeddings
from modules.interpretability.compositional_linear.module import CompositionalLinear

__all__ = ["CompositionalLinear", "ConvEncoder", "FreeEmbeddings", "ImageEncoderConfig"]
