"""Neural tangent kernels: of any network, of infinitely wide ones, and the training that they predict
(Jacot et al. 2018, arXiv 1806.07572)."""

from framework.functional.ntk.empirical import alignment, drift, inflation, kernel_vector_product, tangent_kernel
from framework.functional.ntk.infinite import ACTIVATIONS, ActivationName, infinite_kernels
from framework.functional.ntk.prediction import KernelPredictor

__all__ = [
    "ACTIVATIONS",
    "ActivationName",
    "KernelPredictor",
    "alignment",
    "drift",
    "infinite_kernels",
    "inflation",
    "kernel_vector_product",
    "tangent_kernel",
]
