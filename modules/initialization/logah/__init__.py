"""LoGAH: a hypernetwork that reads a network's graph and predicts all of its initial weights.

Paper: Zhou, Knyazev, Jolicoeur-Martineau, Fu, 2024, "LoGAH: Predicting 774-Million-Parameter Transformers using Graph
HyperNetworks with 1/100 Parameters", arXiv 2405.16287; the encoder is that of GHN-3 (Knyazev et al. 2023, 2303.04143).

What it is for: starting networks of a family, of widths and depths never seen, from weights that already work. The
hypernetwork is trained once, on a stream of small architectures; the technique ``logah_init`` (or
``callbacks.logah_init.init_model``) writes its prediction into any model of the family.

    graph: operations with their parameters, attention, sums, activations; read from ``torch.export``
    x_v = E_op + [E_ch(c_out), E_ch(c_in), E_sp(k_h), E_sp(k_w)] + degrees and depth; Graphormer with distances as bias
    W = A[: c_out k_h] B[:, : c_in k_w], A and B from x_v: of rank ≤ r, any size up to ck × ck
    loss: mean over m networks of the cross-entropy with predicted weights, + 3e-5 Σ ‖W‖; nothing else is trained

:class:`GraphHyperNetwork` trains on ``mlp``, ``vit`` (timm) or ``gpt2`` (transformers) with any data of images or
tokens; ``trace`` also follows torchvision's, ConvNeXts, Mixers, ResNets and encoders. The networks are on the meta
device, so they cost no memory; a topology is traced once, the rest are shapes. Sizes d, r, layers, heads: Tiny 64, 32,
3, 8; Small 128, 90, 5, 16; Base 256, 128, 5, 16; Large 256, 256, 12, 16: 2.54, 21.4, 78.2, 289 million parameters.

Expected numbers (``reproduce logah``, a minute and a half; perceptrons on scikit-learn's digits, two seeds):

    hidden layers        predicted, no training   + 1 epoch      random, 3 epochs   random at its own best rate
    96                   0.969, 0.969             0.969, 0.969   0.889, 0.886       0.975, 0.972
    72-104               0.969, 0.969             0.975, 0.969   0.922, 0.911       0.975, 0.983
    128-128-128          0.967, 0.972             0.967, 0.967   0.961, 0.958       0.981, 0.978
    256-256 (unseen)     0.958, 0.964             0.967, 0.964   0.967, 0.969       0.981, 0.981
    384-384-384 (unseen) 0.905, 0.925             0.958, 0.967   0.967, 0.967       0.969, 0.967

So predicted weights are as good without training as random ones after some epochs, and **a random start with a rate of
its own overtakes them within three epochs**: the advantage is an early one.

With ``architectures.bias: true`` its prediction starts the classifier ``vision/image_classifier_digits``: 0.965 after
two epochs at rate 3e-4, where a random start has 0.646 (one run).

Cost: 15 ms a step for these perceptrons. All weights of a ViT-B by Small: 0.6 s of one core, as long as drawing them;
peak memory 1.3 times that of the weights.

Composes with: everything that follows an initialisation. Limits: one family a hypernetwork; it refuses operations that
its training has not met. A useful hypernetwork for transformers takes GPU days; ``initialization/logah_vit`` and
``_gpt2`` are examples of minutes: predicted ViTs reach 0.59 on digits, GPT-2s 2.66 nats a byte (one run each). The
authors' checkpoints are not read, their sets of architectures are (see :mod:`modules.initialization.logah.shapes`).
Inputs of the graph's nodes are those of this package's own tracing, not of GHN-3's autograd graphs. The paper's CIFAR,
ImageNet and WikiText trainings were not run here.
"""

from modules.initialization.logah.families import Space
from modules.initialization.logah.graph import trace
from modules.initialization.logah.hypernetwork import SIZES, HyperNetwork
from modules.initialization.logah.module import GraphHyperNetwork

__all__ = ["SIZES", "GraphHyperNetwork", "HyperNetwork", "Space", "trace"]
