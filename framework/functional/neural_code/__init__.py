"""Neural codes: the activation pattern of a network for each example, how unique it is, and what it says of the class.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.
"""

from framework.functional.neural_code.capture import CodeLayer, CodeReader, Space
from framework.functional.neural_code.categories import (
    hamming_counts,
    kmeans_purity,
    knn_classes,
    logistic_classes,
    purity,
)
from framework.functional.neural_code.codes import Codes, VaryingColumns, neural_codes, pack_bits, unpack_bits
from framework.functional.neural_code.distinct import DistinctCodes, hash_codes, redundancy_ratio

__all__ = [
    "CodeLayer",
    "CodeReader",
    "Codes",
    "DistinctCodes",
    "Space",
    "VaryingColumns",
    "hamming_counts",
    "hash_codes",
    "kmeans_purity",
    "knn_classes",
    "logistic_classes",
    "neural_codes",
    "pack_bits",
    "purity",
    "redundancy_ratio",
    "unpack_bits",
]
