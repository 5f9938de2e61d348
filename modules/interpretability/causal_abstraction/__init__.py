"""Causal abstraction: how well interventions on a network follow an algorithm, over the power of the alignment map.

Paper: Sutter, Minder, Hofmann, Pimentel, 2025, "The Non-Linear Representation Dilemma: Is Causal Abstraction Enough for
Mechanistic Interpretability?", NeurIPS, arXiv 2507.08802.

What it is for: someone who asks whether a trained network implements an algorithm, by learning an invertible map φ of a
hidden layer and exchanging parts of it between inputs (distributed alignment search). The score, the accuracy of
interchange interventions (IIA), means something only as a function of the power of φ and beside a random network: maps
that are powerful enough align nearly any network with nearly any algorithm.

Equations (section 2, appendix I; base x₀, source x_i for each node i of the algorithm, S the intervened nodes):

    z = φ(h(x₀));   z[B_i] ← φ(h(x_i))[B_i] for i ∈ S;   logits = rest of the network(φ⁻¹(z))
    minimise over φ only: mean cross-entropy(logits, y);   y: the algorithm's output with the nodes of S as on x_i
    identity     φ(h) = h; the units B_i are searched greedily, one more for each node in an epoch
    orthogonal   φ(h) = W h, W in O(d)
    RevNet       a' = a + F(b), b' = b + G(a') on the halves of h, L blocks, F and G with one hidden layer

:class:`InterchangeModel` does it on any ``nn.Module``: a layer by its dotted name, its whole output or a place in it
(a token, a pixel), some of its units, sources of another layer. :func:`save_alignment` writes a map without its host,
whose hash it keeps. :class:`CausalAbstraction` trains φ; its host is trained in place, drawn at random, a checkpoint
(:class:`EqualityMLP` is the paper's), a folder of transformers, or a class of your own. Data: ``hierarchical_equality``
and ``distributive_law`` with three and two algorithms, ``indirect_objects`` with sentences of two names. The sweep
``causal_abstraction_power`` and ``python -m modules.interpretability.causal_abstraction.power`` draw IIA over power.

Expected (10,000 held-out interventions, seeds 0 to 2, hosts at 0.999; chance 0.50): both equalities in layer 3,
identity 0.46 to 0.50, orthogonal 0.50 to 0.51, RevNet 10x16 0.99; in layer 1 orthogonal 0.98, 0.85 and 0.87, RevNet
0.99. The identity of the first argument, layer 1: 0.49 to 0.51 and 0.51 to 0.53. Untrained hosts, layer 1: orthogonal
0.50 to 0.51. Of 1,280 fixed interventions on untrained hosts RevNet 10x64 learns 0.93 to 0.95, with gradients clipped
to norm 1 (seven seeds did in 330 to 720 steps; without clipping one of three stayed at 0.71), an orthogonal map 0.48 to
0.49; held out both stay at 0.50: power alone fits any algorithm on the inputs seen. The distributive law, layer 1:
orthogonal 0.64, RevNet 10x24 0.99 (majority 0.59). The whole takes five minutes of two quiet cores.

Cost: a step of 1,280 interventions takes 15 to 50 ms of one core for a RevNet 10x16; hidden states are computed once
and kept (``cache_gib``), with which a step takes 0.3 of the time where the host outweighs the map, 0.8 to 0.9 for the
paper's. The quick config takes about a minute.

Composes with: observers and averages, as any module. Techniques that change layers would change the frozen host too;
none is of use here.

Limits: a chance rate depends on the data (``majority`` stands beside each IIA; 0.58 in the distributive law). Float32
loses the inverse of deep maps on large activity: watch ``val/inversion``, and set ``trainer.precision=64-true``. The
rest of the network is run alone where the layer is in a ``Sequential`` or ``ModuleList`` and the logits are the same,
else the whole network is run. A host from a file is needed again, at its path, when a run's checkpoint is opened. The
plateau schedule looks at ``val/loss``, the authors' at the training loss; early stopping comes before it. A resumed
training equals an uninterrupted one bit for bit with ``cache_gib`` 0, else to rounding: hidden states are computed in
other batches. Not run here: pretrained language models, the
studies of width and of training progress, and a network trained to have an algorithm.
"""

from modules.interpretability.causal_abstraction.alignment_file import load_alignment, save_alignment
from modules.interpretability.causal_abstraction.equality import EqualityMLP
from modules.interpretability.causal_abstraction.hosts import HostConfig, network_hash, train_host
from modules.interpretability.causal_abstraction.interchange import Interchange, InterchangeModel, contiguous
from modules.interpretability.causal_abstraction.maps import (
    AlignmentMap,
    IdentityMap,
    MapConfig,
    OrthogonalMap,
    RevNet,
    build_map,
)
from modules.interpretability.causal_abstraction.module import CausalAbstraction
from modules.interpretability.causal_abstraction.networks import BlockMLP, LastToken

__all__ = [
    "AlignmentMap",
    "BlockMLP",
    "CausalAbstraction",
    "EqualityMLP",
    "HostConfig",
    "IdentityMap",
    "Interchange",
    "InterchangeModel",
    "LastToken",
    "MapConfig",
    "OrthogonalMap",
    "RevNet",
    "build_map",
    "contiguous",
    "load_alignment",
    "network_hash",
    "save_alignment",
    "train_host",
]
