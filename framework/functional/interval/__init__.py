"""Interval arithmetic of ReLU networks: bounds of every layer over a box of inputs, and how tight they are.

Paper: Understanding Certified Training with Interval Bound Propagation (Mao, Mueller, Fischer, Vechev 2024,
arXiv 2306.10426); the interval bounds are those of Gowal et al. 2018, arXiv 1810.12715.
"""

from framework.functional.interval.boxes import Box, certified, pixel_box
from framework.functional.interval.growth import smooth_eps
from framework.functional.interval.network import Bounds, IntervalNetwork
from framework.functional.interval.tightness import Tightness, relu_states, tightness
from framework.functional.interval.verifier import export_onnx, vnnlib_property, write_verifier_files

__all__ = [
    "Bounds",
    "Box",
    "IntervalNetwork",
    "Tightness",
    "certified",
    "export_onnx",
    "pixel_box",
    "relu_states",
    "smooth_eps",
    "tightness",
    "vnnlib_property",
    "write_verifier_files",
]
