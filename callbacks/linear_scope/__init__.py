"""LinearScope: what a network of images does to them, as the exact affine map F(x) x + r(x) of each.

Paper: Navarrete Michelini, Liu, Lu, Jiang, 2019, "A Tour of Convolutional Networks Guided by Linear Interpreters",
ICCV, arXiv 1908.05168.

With every non-linear unit in the state that it has for an image x, a network is affine, f(x) = F(x) x + r(x). Nothing
is approximated: F x is what the pixels contribute, r what the bias parameters do that x switches on. Logged every
``every_n_epochs`` under ``linear_scope/``:

- of a classifier: ``acc_full``, ``acc_votes`` and ``acc_bias``, the accuracy of f, of F x alone and of r alone;
- of a network whose output is a picture: ``dc_gain`` and ``dc_gain_std`` (mean and deviation of the sums of the rows of
  F: what a constant picture becomes), ``locality`` (share of a column's energy within ``radius`` output pixels);
- of both: ``norm_ratio``, the mean of ‖r‖/‖f‖, and ``error``, the largest |y − (A x + b)| relative to max |y|.

Figures of a few images: maps of the votes C_q[p] = F[q, p] x[p] for the largest logits; rows and columns of F;
eigen-inputs, eigen-outputs and singular values; r beside F x and f; and all numbers over epochs. With ``test`` and
``validate`` they are made once, so that a pretrained network needs no training.

r depends on the image as F does, so that an accurate r is not a constant prior. A normalisation of the images moves
mass between F x and r: by default x are pixels from 0 to 1, where the datamodule tells mean and deviation
(``raw_pixels``), and the numbers differ with normalised ones.

It works with any module whose ``forward`` maps the batch's input of floating-point numbers and treats images
independently; operations without a linear action (a softmax of the output, a product of two features) are refused
before training, with their module's name. It changes nothing: a training that diverges to NaN goes on, with NaN logged
here. Cost: a copy of the network in float64; for each look some ten forward passes of ``points`` images, and of each
image in the figures a pass a row and column. Its mathematics: ``framework/functional/linear_scope``.
"""

from callbacks.linear_scope.callback import LinearScope
from callbacks.linear_scope.measures import measure_classes, measure_pictures

__all__ = ["LinearScope", "measure_classes", "measure_pictures"]
