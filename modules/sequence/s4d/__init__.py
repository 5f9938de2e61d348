"""S4D: diagonal state space models."""

from modules.sequence.s4d.layer import S4DLayer
from modules.sequence.s4d.lightning import S4DClassifier, S4DRegressor

__all__ = ["S4DClassifier", "S4DLayer", "S4DRegressor"]
