"""LinearScope: super-resolution and image-to-image networks for the linear interpreter (TODO card).

Paper: Navarrete Michelini, Liu, Lu, Jiang, 2019, "A Tour of Convolutional Networks Guided by Linear Interpreters",
ICCV, arXiv 1908.05168.
"""

from modules.interpretability.linear_scope.module import ImageToImage, SuperResolution
from modules.interpretability.linear_scope.networks import UNet, UpscalingNet

__all__ = ["ImageToImage", "SuperResolution", "UNet", "UpscalingNet"]
