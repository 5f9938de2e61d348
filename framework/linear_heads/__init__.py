"""Linear classifiers on fixed features: naive Bayes in closed form, logistic regression, and their learning curves."""

from framework.linear_heads.curve import LearningCurve, crossover, draw_subset, learning_curve
from framework.linear_heads.figure import curve_figure
from framework.linear_heads.gaussian import ClassStatistics, gaussian_head
from framework.linear_heads.logistic import fit_logistic, logistic_loss
from framework.linear_heads.rule import LinearRule, RangeScaler

__all__ = [
    "ClassStatistics",
    "LearningCurve",
    "LinearRule",
    "RangeScaler",
    "crossover",
    "curve_figure",
    "draw_subset",
    "fit_logistic",
    "gaussian_head",
    "learning_curve",
    "logistic_loss",
]
