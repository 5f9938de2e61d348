"""KappaTune's experiment: how much a small network forgets of one task while chosen weights learn another.

Paper: Ludwig 2025, "The Condition Number as a Scale-Invariant Proxy for Information Encoding in Neural Units", arXiv
2506.16289.

What it is for: testing on a laptop whether training the weights of lowest condition number (the technique
``kappa_tune``) forgets less than training other weights. The network is pre-trained on task A, then it learns task B
with the tensors that the technique leaves trainable. Forgetting is the accuracy on A before minus after; for a fair
comparison B is always trained to the same loss.

The network is a mixture of experts: an input layer, residual layers h + Σ_e g_e W2_e relu(W1_e h + b1_e) + b2_e over
the two experts with the largest router logits, g their softmax, no balancing loss; a linear output. Every expert's
matrices are separate parameters, so that they can be chosen one by one. ``experts: 0`` makes it a dense residual
network of the same form.

Expected (``reproduce kappa_tune``): MNIST-1D, B is A reversed in time, 10 seeds: accuracy on A 0.661 before; forgetting
0.035 with the 16 matrices of lowest κ (0.015 to 0.054), 0.062 with the highest (0.039 to 0.080), both at a training
loss of 0.9 and a test accuracy of 0.54 and 0.53 on B. Five seeds alone give 0.046 and 0.057. A random third: 0.062 (5
seeds, one of which never reaches that loss); all 48: 0.029. The lowest κ are the experts' first matrices, the highest
their second. On dense networks of this size the choice makes no difference (0.039, 0.040, random 0.036), as the authors
also report.

Cost: pre-training some 20 s, a fine-tuning about as much, on one CPU core.

Composes with any technique; pre-training takes place when the model is configured, before techniques act. A resumed run
repeats it and then loads its checkpoint. Limits: signals of one length, class labels.
"""

from modules.finetuning.kappa_tune.module import DenseLayer, ExpertLayer, ExpertNetwork, TwoTaskClassifier, accuracy

__all__ = ["DenseLayer", "ExpertLayer", "ExpertNetwork", "TwoTaskClassifier", "accuracy"]
