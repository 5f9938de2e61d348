"""Growing networks: a classifier that is grown from two of half its width, with the accuracy of its members.

Paper: Pham, Teterwak, Nelson, Plummer, 2024, "MixtureGrowth: Growing Neural Networks by Recombining Learned
Parameters", WACV, arXiv 2311.04251.

What it is for: training a wide network at a lower cost. Two networks of half the width are trained, each at a quarter
of the full network's FLOPs; then the full width is assembled from both and trained for a few more epochs. Growing needs
no data and no random weights: the new blocks are mixtures of templates that the members have learnt.

The parts: this module is the classifier, with plain layers; the technique ``mixture_growth`` replaces them by layers
made of templates, trains the members one after the other, grows the network and folds it; ``flops`` counts the cost.
Networks here have no biases, like the paper's (``mlp``, ``conv1d``, ``wrn-28-10``); any ResNet of timm works too.

Expected numbers: the paper has 2 to 2.5 points more than earlier ways of growing on CIFAR-100 and ImageNet (WRN-28-10
and a wide ResNet-50), not run here. On MNIST-1D (4,000 signals each to train and test on, mean of 5 seeds): better
member 63.6 %, grown 69.6 % (68.8 to 70.7), full width from scratch 69.8 % (67.2 to 71.0) for 43 % more FLOPs, half
width 67.2 %.

Cost: that of the network; with templates at most some percent more (``benchmarks/mixture_growth.py``).

Composes with every technique that works on linear layers or convolutions; those that need plain layers wait for
``fold_epoch``.

Limits: cutout is the only augmentation here; crops and flips are the datamodule's.
"""

from modules.initialization.mixture_growth.module import GrowingClassifier, build_net, computing, cutout, mlp

__all__ = ["GrowingClassifier", "build_net", "computing", "cutout", "mlp"]
