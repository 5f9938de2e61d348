"""LinearScope: the exact affine map that a convolutional network applies to an image, and networks to apply it to.

Paper: Navarrete Michelini, Liu, Lu, Jiang, 2019, "A Tour of Convolutional Networks Guided by Linear Interpreters",
ICCV, arXiv 1908.05168.

What it is for: someone with a trained network of images who wants to know what it did to one of them: what an output
reads (rows), what a pixel paints (columns), its singular vectors, and how much of the output comes from the image and
how much from the bias parameters. It analyses; it does not train.

Equations (the paper's abstract and first figure; the rest is derived from "replay every non-linear unit as it was"):

    f(x) = F(x) x + r(x)                               exactly, not an expansion with an error
    L_x(z) = F(x) z + r(x)                             the interpreter: the map at x, for any other z
    r(x) = L_x(0),  F[:, p] = L_x(e_p) - r,  F^T u     residual, columns, vector-Jacobian product
    C_q = F[q, :] ∘ x,  f_q = Σ_p C_q[p] + r_q         votes of the pixels for an output
    F = Σ_i s_i u_i v_iᵀ                               eigen-outputs, gains and eigen-inputs

:class:`framework.functional.linear_scope.LinearInterpreter` opens it on any network: functions, tensor methods,
overwriting and modules used twice are seen, and what cannot be replayed is refused by its name and its module's.
Units: ReLU, leaky and parametric ReLU, clamps, max-pooling by the image's states; batch norm in ``eval``; instance,
group and layer norm with the image's variance (``norm_mode``); tanh, GELU, SiLU, … by secant or tangent
(``smooth_mode``); of gates and attention the image's weights, which is an extension. Which of the modes the paper uses
is not known. The technique ``linear_scope`` logs and draws it in any training or test.

Here are networks from picture to picture, :class:`SuperResolution` and :class:`ImageToImage`;
:class:`InterpretedClassifier` is ``modules.vision.image_classifier`` with any backbone of timm, ``cnn`` or the
pretrained ``onet`` (``make data/onet``).

Expected (``reproduce linear_scope``): digits, three seeds, with batch norm: accuracy of f 0.99, of F x alone 0.41 to
0.66, of r alone 0.78 to 0.85, ‖r‖/‖f‖ 0.92 to 0.97; without normalisation 0.96, 0.67 to 0.92, 0.13 to 0.33, 0.19 to
0.53; without biases r is 0. Super-resolution without its skip: ‖r‖/‖f‖ 0.02, row sums 1.02, 96 % of a column's energy
within 4 pixels, eigen-inputs are localised waves. O-Net on 200 pictures: f 1.00, F x alone 0.51 and r alone 0.995 for
raw pixels, 0.45 and 1.00 for normalised ones. r depends on the image just as F does: it is no constant prior.

Cost: opening takes about five forward passes and half a second for a ResNet-18; ten rows about a tenth of ten calls of
``autograd.grad`` with their forward passes, 64 columns a quarter to a sixth of 64 forward passes. A whole F of an
ImageNet classifier has 1.2 GB in float64: ask for rows, columns or products.

Composes with: the technique works on every network of floating-point inputs, beside every other technique.

Limits: images are independent (no batch statistics); a product of two features of the image without a gate, a softmax
of the output and token look-ups are refused; the parametrisation matters: a normalisation of the input moves mass
between F x and r.
"""

from modules.interpretability.linear_scope.module import ImageToImage, InterpretedClassifier, SuperResolution
from modules.interpretability.linear_scope.networks import UNet, UpscalingNet

__all__ = ["ImageToImage", "InterpretedClassifier", "SuperResolution", "UNet", "UpscalingNet"]
