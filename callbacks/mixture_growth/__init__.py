"""MixtureGrowth: trains two networks of half the width, then the full width from mixtures of their weights.

Paper: Pham, Teterwak, Nelson, Plummer, 2024, "MixtureGrowth: Growing Neural Networks by Recombining Learned
Parameters", WACV, arXiv 2311.04251.

A weight consists of four blocks, rows being outputs: ``W = [[B_0, B_2], [B_3, B_1]]``. Each block is a mixture of
T = 2 templates of its size, ``B_j = Σ_t alpha_j[t] · S_m(j)[t]``, from one of two sets S_0, S_1 (m = [0, 1, 0, 1], or
[0, 1, 1, 0]). Member 0 is a network of half the width that uses only B_0, member 1 only B_1; they are trained one after
the other, independently. Then the network grows: the off-diagonal blocks are mixtures of the templates of both, and
everything is trained together. The first layer is split only over its outputs (``[B_0; B_1]``), the classifier only
over its inputs (``[B_0, B_1]``), so that with ``mode: zero`` the grown logits are the sum of the members'. Each member
has its own norms and biases, which are concatenated (biases of a layer split over inputs are added).

Converted layers: all of them, if every parameter belongs to Linear, Conv1d, Conv2d (one group, or depthwise), a batch
norm or PReLU (ResNets, MLPs, sinusoidal networks). If LayerNorm or attention couple channels, the pairs inside
transformers' MLPs (fc1/fc2, c_fc/c_proj, gate_proj + up_proj/down_proj, …) are split, and the rest is shared by the
members and always trained. ``layers`` overrides this: ``{"mix.0": in, "head": in}``.

Each event (convert, member, grow, fold) is one plan and starts a stage: a new optimiser, and the schedule over that
stage. All tensors exist from the start, so names and shapes of a state dict only change by folding; the phase is in the
plans.

In any loop: :func:`convert_to_templates`, :func:`set_phase`, :func:`grow`, :func:`fold_`, :func:`member`,
:func:`load_member`.

Expected numbers (``reproduce mixture_growth``, means of 5 seeds): MNIST-1D, a perceptron 40-128-128-128-10, members
trained for 25 epochs each, 10 epochs more after growing. Better member 63.6 %, sum of the members 68.5 %, grown 69.6 %,
full width from scratch for 35 epochs 69.8 %, at 70 % of its training FLOPs; half width for 60 epochs 67.2 %, widened by
Net2Net after 50 at the same FLOPs 69.2 %. Right after growing ``zero`` has 68.5 %, ``none`` 58.3, ``random`` 54.0,
``orthogonal`` 52.5, ``copy`` 21.4; after the 10 epochs all are within one point. The paper reports 2 to 2.5 points more
than other ways of growing on CIFAR-100 and ImageNet; that was not run here.

Cost: weights are assembled in each training step, which adds 4 to 6 % to a step of a wide ResNet, 9 to 12 % to one
of a perceptron of 1,024 or 512 units (``benchmarks/mixture_growth.py``), and 66 % if layers are so small (128 units)
that calls take more time than arithmetic; fold when training is done. A member's step has a quarter of the FLOPs.

It works with ``gg_init``, ``winner`` (through ``weight_parts``), ``warm_start`` (shrinks the templates, not the
coefficients), ``ema`` (starts again at each stage), DDP (the idle member needs no gradient). ``kappa_tune`` and
``lora`` need plain layers: ``fold_epoch``, which they wait for.

Limits: the blocks are halves (the paper's ``r = 0.5``). In networks that concatenate channels (DenseNet) or mix them
without parameters the members are not separate: name their layers. A conversion draws new weights; pretrained ones are
not kept, and the scale of layers without ReLU, such as a network of sines, is only kept with ``init: layer``. No
templates are added at growth, and members are not trained simultaneously.
"""

from callbacks.mixture_growth.callback import MixtureGrowth
from callbacks.mixture_growth.conversion import convert_to_templates, phase_of, plan_layers, set_phase
from callbacks.mixture_growth.layers import TemplateBatchNorm, TemplateConv1d, TemplateConv2d, TemplateLinear
from callbacks.mixture_growth.members import copy_member, fold_, grow, load_member, member

__all__ = [
    "MixtureGrowth",
    "TemplateBatchNorm",
    "TemplateConv1d",
    "TemplateConv2d",
    "TemplateLinear",
    "convert_to_templates",
    "copy_member",
    "fold_",
    "grow",
    "load_member",
    "member",
    "phase_of",
    "plan_layers",
    "set_phase",
]
