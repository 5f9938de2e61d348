"""IBP: classifiers trained on interval bounds, with a proof of their robustness, and how tight such bounds are.

Paper: Mao, Müller, Fischer, Vechev, 2024, "Understanding Certified Training with Interval Bound Propagation", ICLR,
arXiv 2306.10426. SABR: Müller, Eckert, Fischer, Vechev 2023, arXiv 2210.04871. The initialisation and the regulariser
of the start: Shi, Wang, Zhang, Yi, Hsieh 2021, arXiv 2103.17268.

What it is for: training networks of which it is proven, sample by sample, that no change of a pixel by up to eps
changes the class; and measuring why the loosest bounds train the best of them. Inputs are in [0, 1], eps too, and boxes
are cut to [0, 1]; the network normalises its inputs itself.

    c ← W c + b, r ← |W| r;  ReLU of both bounds;  batch norm r ← |γ|/σ · r
    z_j = upper bound of logit_j − logit_y, with rows w_j − w_y in the last layer;  certified ⇔ all z_j < 0
    loss: cross-entropy of z, eps growing smoothly from 0; SABR on boxes of λ eps around an attack; PGD on the attack
    τ(x) = |C W_L D … W_1| r₀ / (|C W_L| D … |W_1| r₀): the tightness, D = 1[pre-activation ≥ 0]

:class:`IBPClassifier` trains by four strategies; the techniques ``ibp_init``, ``fast_regularizer`` and
``propagation_tightness`` act on any classifier whose network :class:`framework.functional.interval.IntervalNetwork` can
follow; :func:`verdicts` counts certified, attacked, unknown and failed samples apart.

Expected numbers (``reproduce ibp``, 36 of 36 hold; scikit-learn's digits, 64-256-64-10, eps 0.1, 60 epochs, three
seeds): accuracy of standard training, PGD, SABR, IBP 0.97, 0.99, 0.98, 0.97 (0.96 to 0.975); certified 0, 0, 0.70, 0.79
(0.76 to 0.80); tightness 0.14, 0.09, 0.66, 0.85. IBP over eps 0.01, 0.03, 0.1, 0.2: tightness 0.37 to 0.95, PGD at most
0.135. Widths 16, 64, 256: certified accuracy rises from 0.60 to 0.84, tightness falls from 0.92 to 0.84. Without
``ibp_init`` and ``fast_regularizer``, which this shallow network does not need, IBP has 0.98 and 0.81 (seed 0). At the
start the tightness is the authors' within 3 % (cnn_2 0.135, cnn_3 0.0248), and their linear autoencoders' within 4 %.
Fashion-MNIST (``robustness/ibp_fashion`` with 6 epochs, seed 0, 2,000 test images; single runs, not in ``reproduce``):
tightness of IBP, SABR, PGD 0.98, 0.92, 0.05; certified 0.635, 0.623, 0; accuracy 0.75, 0.76, 0.79.

Cost: a step takes about three plain ones; the quick config 14 s of one core. Tightness takes two backward passes for
each class but one.

Composes with other techniques as any classifier does; bounds follow LoRA adapters and replaced layers, but not the
layers of MixtureGrowth before they are folded.

Limits: l∞ boxes; linear and convolutional layers, batch norm, ReLU, pooling, sums: everything else is refused by name.
Bounds are those of exact arithmetic. A network of five or more hidden layers without batch norm can collapse to a
constant, of tightness 1: look at the accuracy. What stays unknown a complete verifier can decide: ``verifier_samples``
writes the network as ONNX and a VNN-LIB file a sample. Not built: CROWN, the L1 penalty of the best SABR runs. The
paper's MNIST and CIFAR-10 trainings were not run here.
"""

from modules.robustness.ibp.certify import VERDICTS, verdicts
from modules.robustness.ibp.module import IBPClassifier
from modules.robustness.ibp.networks import certified_network

__all__ = ["VERDICTS", "IBPClassifier", "certified_network", "verdicts"]
