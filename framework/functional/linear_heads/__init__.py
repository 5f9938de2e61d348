"""Linear classifiers on fixed features: naive Bayes in closed form, logistic regression, and their learning
curves (Zheng et al. 2023, arXiv 2302.02334)."""

from framework.functional.linear_heads.curve import LearningCurve, crossover, draw_subset, learning_curve
from framework.functional.linear_heads.figure import curve_figure
from framework.functional.linear_heads.gaussian import ClassStatistics, gaussian_head
from framework.functional.linear_heads.logistic import fit_logistic, logistic_loss
from framework.functional.linear_heads.rule import LinearRule, RangeScaler

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
