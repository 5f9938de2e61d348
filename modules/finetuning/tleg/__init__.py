"""TLEG: one base and one slope for all layers of a transformer, trained once, initialise transformers of any depth.

Paper: Xia, Zhang, Yang, Chen, Chen, Geng, 2024, "Transformer as Linear Expansion of Learngene", AAAI, arXiv 2312.05614.

What it is for: vision transformers of many depths without pretraining each of them. Stage 1 (``LearngeneAux``)
distils an auxiliary network whose layers are all computed from two blocks' worth of weights, the learngene. Stage 2
expands it to any depth and trains that transformer as usual, with independent layers: ``DescendantViT`` here, or any
module with a vision transformer of timm, by the technique ``learngene``.

    θ_i = θ_B + (i/L) θ_A,  i = 0 … L−1                                         every tensor of a block, norms too
    L = (1 − α) CE + α τ² KL(teacher ‖ student)                                 stage 1; α = 1, τ = 1

The coefficient is i/L as in the authors' code, never 1, in both stages, so every second layer of depth 2L is a layer of
depth L. Embeddings, final norm and head are shared. Linear weights of θ_A are initialised like those of θ_B, its norms
at 0. One point differs from the authors' code: both stages normalise the tokens and then average them, so that the
expansion to the trained depth is bit-identical to the auxiliary network; ``backbone_args: {fc_norm: true}`` gives
descendants the other order.

The teacher is a checkpoint, weights in a file, or a perceptron trained in the same run. A run writes
``learngene.safetensors``, ``zero_shot.csv`` (accuracy of expansions without training) and ``storage.csv``.

Expected numbers (``reproduce tleg``: digits, 1,438 images, tested on 359, width 48, trained at depth 6; accuracy in %
of two seeds, expansions trained at rate 0.0005, random weights at 0.002):

    depth   expanded      and 1 epoch   and 6 epochs   random, 6 epochs
    3       84.1 / 92.5   95.3 / 93.9   95.8 / 95.3    56.3 / 45.1
    4       93.0 / 95.3   93.9 / 94.4   93.3 / 95.5    42.6 / 42.1
    6       94.2 / 95.8   93.6 / 94.2   94.4 / 95.8    33.4 / 42.3
    9       91.1 / 94.4   93.0 / 92.8   95.0 / 95.3    40.1 / 31.2

Depth 6 from scratch has 95.3 / 95.5 after 60 epochs. At DeiT-S's size one learngene has 1/33 of the numbers of all
models of depths 3 to 12. The layers of descendants stay close to a line (R² 0.99 after 6 epochs). The paper's
observation that layers of trained transformers lie close to a line is not seen in a small one trained from scratch: R²
0.24, and independent layers have 0.20.

Cost: that of a transformer of the auxiliary depth, and a copy of each layer's weights in the autograd graph.

Composes: stage 1 with techniques that change values or trainability; those that change the structure of its blocks
(LoRA, MixtureGrowth) are refused, because their parameters would not be on a line. Stage 2 with every technique for
vision transformers except MixtureGrowth.

Limits: one width for all depths. Far from the trained depth expansions are less accurate: 32 / 62 at depth 1, 55 / 78
at depth 24.
"""

from modules.finetuning.tleg.module import DescendantViT, LearngeneAux

__all__ = ["DescendantViT", "LearngeneAux"]
