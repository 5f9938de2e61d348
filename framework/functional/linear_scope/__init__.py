"""Linear interpreters: the exact affine map F(x) z + r(x) that a network applied to an image x.

Paper: Navarrete Michelini, Liu, Lu, Jiang, 2019, "A Tour of Convolutional Networks Guided by Linear Interpreters",
ICCV, arXiv 1908.05168.
"""

from framework.functional.linear_scope.calls import Call, NormMode, Options, Refusal, Rule, SmoothMode, Step
from framework.functional.linear_scope.interpreter import Basis, LinearInterpreter, Readout
from framework.functional.linear_scope.metrics import BiasReliance, ColumnLocality, DCGain, centres_of
from framework.functional.linear_scope.pixels import Standardised
from framework.functional.linear_scope.readout import affine_parts, contributions
from framework.functional.linear_scope.tracing import NotFinite

__all__ = [
    "Basis",
    "BiasReliance",
    "Call",
    "ColumnLocality",
    "DCGain",
    "LinearInterpreter",
    "NormMode",
    "NotFinite",
    "Options",
    "Readout",
    "Refusal",
    "Rule",
    "SmoothMode",
    "Standardised",
    "Step",
    "affine_parts",
    "centres_of",
    "contributions",
]
