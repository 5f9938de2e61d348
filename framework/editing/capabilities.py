"""Capabilities: what one technique may offer another, so that neither has to know the other's name.

A technique lists what it offers in :attr:`Technique.offers` and what it needs in :attr:`Technique.needs`;
:meth:`Context.offering` finds the techniques of a run that offer something. Another package may use names of its own.
"""

from __future__ import annotations

PLAIN_LAYERS = "plain_layers"
FRESH_WEIGHTS = "fresh_weights"
TRAINED_WEIGHTS = "trained_weights"
NOISE = "noise"
CLAIMED_LAYERS = "claimed_layers"
RANKING = "ranking"
ADAPTERS = "adapters"
TRAINING_DATA = "training_data"

CAPABILITIES = {
    PLAIN_LAYERS: "the model's own layers. A Transform of an earlier phase replaces them until it has settled; this "
    "capability is only used in `needs`",
    FRESH_WEIGHTS: "draws weights as a layer's own initialisation would; `initialise` with another seed draws others",
    TRAINED_WEIGHTS: "writes weights that were trained before",
    NOISE: "shrinks weights or adds noise to them before training; `noised(model)` returns the names of the parameters",
    CLAIMED_LAYERS: "needs the initialisation that some layers have; `claimed(model)` returns the names of the layers",
    RANKING: "ranks the weights that it finds, which must be the ones to keep",
    ADAPTERS: "puts adapters on the layers that an earlier decision holds under `target_modules` and "
    "`target_parameters`; `candidates(model)` returns the names of the layers that it can adapt",
    TRAINING_DATA: "computes what it writes into the model from the training data, beside the optimiser",
}
