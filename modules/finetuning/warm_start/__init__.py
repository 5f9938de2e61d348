"""Warm starts: a classifier for data that arrives in rounds, and measurements between two rounds.

Paper: Ash & Adams, 2020, "On Warm-Starting Neural Network Training", NeurIPS, arXiv 1910.08475.

What it is for: data arrives in rounds, and after each the model must use all data so far. Continuing from the last
weights (a warm start, WS) trains faster than a new random initialisation (RI) but generalises worse, although both
reach the same training loss. Shrink and perturb (SP) starts a round from θ = λ θ_old + γ θ_new, with randomly
initialised θ_new: as good as RI, at almost the cost of WS. (λ, γ) = (0, 1) is RI, (1, 0) is WS; the paper's online runs
use λ = 0.6.

The parts: this module is the classifier; the data in rounds is ``datamodules.finetuning.rounds.RoundData``; the
technique ``warm_start`` writes the weights at the start of a round and resets the optimiser, at a constant rate; the
technique ``accuracy_threshold`` ends a round when the accuracy on the training batches of an epoch reaches 0.99.

Why it works: in a ReLU net without biases, shrinking all L weight layers by λ multiplies the logits by λ^L. The
predictions stay the same but are less confident, so that old and new samples have gradients of comparable size again;
with a warm start the new ones dominate (:func:`gradient_ratio`, :func:`prediction_entropy`).

Expected numbers: paper, CIFAR-10, half of the data and then all, ResNet with SGD: RI 56.2 % (deviation 1.0 of five),
WS 51.7 % (0.9). On MNIST-1D (2,000 and then 4,000 signals, tested on 8,000, MLP 40-100-100-10, Adam 1e-3, batches of
128), mean of 8 seeds: RI 61.2 % in 124 epochs of the second round, WS 59.5 % in 83, SP with λ = 0.6 60.9 % in 94; the
deviation between seeds is 0.3 to 0.7 points.

Cost: that of the network; a step has no additional cost.

Composes with every technique that works on linear layers or convolutions.

Limits: the paper's networks are small (the ResNet-18 has a quarter of the usual channels); augmentation and weight
decay reduce the difference and are off; with label noise the accuracy may never reach its threshold, so rounds have a
largest number of epochs.
"""

from modules.finetuning.warm_start.module import OnlineLearner, gradient_norm, gradient_ratio, prediction_entropy

__all__ = ["OnlineLearner", "gradient_norm", "gradient_ratio", "prediction_entropy"]
