"""TLEG: one base and one slope for all layers of a transformer, trained once, to start transformers of any depth from.

Paper: Xia, Zhang, Yang, Chen, Chen, Geng, 2024, "Transformer as Linear Expansion of Learngene", AAAI, arXiv 2312.05614.

What it is for: the same vision transformer at many depths, without pretraining each. Stage 1 (``LearngeneAux``)
distils an auxiliary network whose layers are all computed from two blocks' worth of weights, the learngene. Stage 2
expands it to any depth and trains that transformer as usual, all layers free: ``DescendantViT`` here, or any module
with a vision transformer of timm, by the technique ``learngene``.

    θ_i = θ_B + (i/L) θ_A,  i = 0 … L−1                                         every tensor of a block, norms too
    L = (1 − α) CE + α τ² KL(teacher ‖ student)                                 stage 1; α = 1, τ = 1

The coefficient is i/L as in the authors' code, never 1, at both stages, so depth 2L has depth L's layers at every
second place. Embeddings, final norm and head are shared. Linear weights of θ_A start as θ_B's do, its norms at 0. In
one point the authors' code is left: both stages normalise the tokens and then average, so that the expansion to the
trained depth is the auxiliary network to the bit; ``backbone_args: {fc_norm: true}`` gives descendants the other order.

The teacher is a checkpoint, weights in a file, or a perceptron trained in place. A run leaves
``learngene.safetensors``, ``zero_shot.csv`` (accuracy of expansions never trained) and ``storage.csv``.

Expected numbers (``reproduce tleg``: digits, 1,438 images, tested on 359, width 48, trained at depth 6; accuracy in %
of two seeds, expansions trained at rate 0.0005, random weights at 0.002):

    depth   expanded      and 1 epoch   and 6 epochs   random, 6 epochs
    3       84.1 / 92.5   95.3 / 93.9   95.8 / 95.3    56.3 / 45.1
    4       93.0 / 95.3   93.9 / 94.4   93.3 / 95.5    42.6 / 42.1
    6       94.2 / 95.8   93.6 / 94.2   94.4 / 95.8    33.4 / 42.3
    9       91.1 / 94.4   93.0 / 92.8   95.0 / 95.3    40.1 / 31.2

Depth 6 from scratch has 95.3 / 95.5 after 60 epochs. At DeiT-S's size one learngene holds a 33rd of what models of
depths 3 to 12 do. Descendants stay on their line (R² 0.99 after 6 epochs); the paper's starting point, that layers of
trained transformers lie near one, does not show in a small one from scratch: R² 0.24, and independent layers have 0.20.

Cost: that of a transformer of the auxiliary depth, and a copy of its weights for each layer in the graph.

Composes: stage 1 with techniques that change values or trainability; those that change the structure of its blocks
(LoRA, MixtureGrowth) are refused, for their parameters would follow no line. Stage 2 with all that a vision transformer
takes but MixtureGrowth.

Limits: one width for all depths. Far from the trained depth expansions fall off: at depth 1 32 / 62, at 24 55 / 78.
"""

from modules.finetuning.tleg.module import DescendantViT, LearngeneAux

__all__ = ["DescendantViT", "LearngeneAux"]
