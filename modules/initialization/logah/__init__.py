"""LoGAH: a hypernetwork that reads a network's graph and predicts all of its initial weights.

Paper: Zhou, Knyazev, Jolicoeur-Martineau, Fu, 2024, "LoGAH: Predicting 774-Million-Parameter Transformers using Graph
HyperNetworks with 1/100 Parameters", arXiv 2405.16287; the encoder is that of GHN-3 (Knyazev et al. 2023, 2303.04143).

TO BE WRITTEN
"""

from modules.initialization.logah.families import Space
from modules.initialization.logah.graph import trace
from modules.initialization.logah.hypernetwork import SIZES, HyperNetwork
from modules.initialization.logah.module import GraphHyperNetwork

__all__ = ["SIZES", "GraphHyperNetwork", "HyperNetwork", "Space", "trace"]
