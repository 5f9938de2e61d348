"""Hash encoder.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.
"""

from modules.interpretability.hash_encoder.module import HashEncoder
from modules.interpretability.hash_encoder.network import BNReLUMLP

__all__ = ["BNReLUMLP", "HashEncoder"]
