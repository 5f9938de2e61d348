"""Protocols through which techniques use modules and datamodules without importing them."""

from framework.protocols.attention import Replacement, RotaryAttention
from framework.protocols.data import HasConcepts, HasExamples, HasNormalisation, HasTargetSignal, InRounds
from framework.protocols.derivatives import second_derivatives, second_derivatives_needed
from framework.protocols.heads import HasClusterHead
from framework.protocols.latents import HasDecoder, HasLatents, HasTrueLatents
from framework.protocols.memories import HasCoreSpectrum, HasRouters, ReadsTable, Routing, TableRead
from framework.protocols.prompts import AnswersPrompts, HandsOutPrompts, RatesInTokens
from framework.protocols.sequences import Generates, HasKernels, HasMemory, KernelData, RateTransferable
from framework.protocols.weights import (
    HasFactors,
    HasLearngene,
    HasMembers,
    HasSineLayers,
    HasTrainedFeatures,
    HasWeightParts,
    PredictedWeights,
    PredictsWeights,
    SineLayers,
    WeightPart,
)

__all__ = [
    "AnswersPrompts",
    "Generates",
    "HandsOutPrompts",
    "HasClusterHead",
    "HasConcepts",
    "HasCoreSpectrum",
    "HasDecoder",
    "HasExamples",
    "HasFactors",
    "HasKernels",
    "HasLatents",
    "HasLearngene",
    "HasMembers",
    "HasMemory",
    "HasNormalisation",
    "HasRouters",
    "HasSineLayers",
    "HasTargetSignal",
    "HasTrainedFeatures",
    "HasTrueLatents",
    "HasWeightParts",
    "InRounds",
    "KernelData",
    "PredictedWeights",
    "PredictsWeights",
    "RateTransferable",
    "RatesInTokens",
    "ReadsTable",
    "Replacement",
    "RotaryAttention",
    "Routing",
    "SineLayers",
    "TableRead",
    "WeightPart",
    "second_derivatives",
    "second_derivatives_needed",
]
