"""IBP: classifiers trained on interval bounds, with a proof of their robustness, and how tight such bounds are.

Paper: Mao, Müller, Fischer, Vechev, 2024, "Understanding Certified Training with Interval Bound Propagation", ICLR,
arXiv 2306.10426.
"""

from modules.robustness.ibp.certify import VERDICTS, verdicts
from modules.robustness.ibp.module import IBPClassifier
from modules.robustness.ibp.networks import certified_network

__all__ = ["VERDICTS", "IBPClassifier", "certified_network", "verdicts"]
