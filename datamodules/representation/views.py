"""Random views of a whole batch: the same examples, augmented several times.

Paper: the augmentations of TCR's code (Li et al. 2022, "Neural Manifold Clustering and Embedding", arXiv 2201.10000),
which MLC (arXiv 2301.01805) starts from; the hue is rotated about the grey axis instead of in HSV.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.settings import above, at_least, one_of

ViewKind = Literal["none", "affine", "photo", "noise"]
_GREY = torch.tensor([0.299, 0.587, 0.114])


def _warped(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    grid = F.affine_grid(torch.cat([matrix, offset[:, :, None]], 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _uniform(n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n)


def random_affine(
    x: Tensor, angle: float = 0.3, scale: float = 0.15, shear: float = 0.2, shift: float = 0.25
) -> Tensor:
    """Rotates, scales, shears and shifts each image of (B, C, H, W), zeros moving in at the border.

    Args:
        x: Images.
        angle: Largest rotation in radians.
        scale: Largest change of the size, relative to it.
        shear: Largest shear.
        shift: Largest shift, relative to half of the side.
    """
    n = len(x)
    turn, wider, lean = (_uniform(n, -bound, bound) for bound in (angle, scale, shear))
    cos, sin = turn.cos() * (1 + wider), turn.sin() * (1 + wider)
    matrix = torch.stack([torch.stack([cos, lean * cos - sin], 1), torch.stack([sin, lean * sin + cos], 1)], 1)
    return _warped(x, matrix, _uniform(2 * n, -shift, shift).view(n, 2))


def random_resized_crop(x: Tensor, smallest: float = 0.08) -> Tensor:
    """Cuts a part of ``smallest`` to all of the area of each image (B, C, H, W), 3:4 to 4:3, resized; half mirrored."""
    n = len(x)
    area, ratio = _uniform(n, smallest, 1.0).sqrt(), _uniform(n, math.log(3 / 4), math.log(4 / 3)).mul(0.5).exp()
    width, height = (area * ratio).clamp(max=1), (area / ratio).clamp(max=1)
    mirrored = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    matrix = torch.diag_embed(torch.stack([width * mirrored, height], 1))
    room = torch.stack([1 - width, 1 - height], 1)
    return _warped(x, matrix, room * _uniform(2 * n, -1, 1).view(n, 2))


def colour_jitter(x: Tensor) -> Tensor:
    """Changes the colours of four in five images (B, C, H, W) in [0, 1]; one in five becomes grey.

    Brightness, contrast and saturation change by up to 40 % and the hue by up to 36°; of grey images the first two.
    """
    n = len(x)
    bright, contrast, colour = (_uniform(n, 0.6, 1.4).view(n, 1, 1, 1) for _ in range(3))
    found = (x * bright).clamp(0, 1)
    mean = found.mean((1, 2, 3), keepdim=True)
    found = (mean + (found - mean) * contrast).clamp(0, 1)
    if x.shape[1] == 3:
        grey = torch.einsum("bchw,c->bhw", found, _GREY)[:, None]
        found = (grey + (found - grey) * colour).clamp(0, 1)
        found = torch.einsum("bcd,bdhw->bchw", _hue_rotations(_uniform(n, -0.1, 0.1) * 2 * math.pi), found).clamp(0, 1)
    found = torch.where((torch.rand(n) < 0.8).view(n, 1, 1, 1), found, x)
    if x.shape[1] != 3:
        return found
    grey = torch.einsum("bchw,c->bhw", found, _GREY)[:, None].expand_as(found)
    return torch.where((torch.rand(n) < 0.2).view(n, 1, 1, 1), grey, found)


def _hue_rotations(angle: Tensor) -> Tensor:
    """Rotations (B, 3, 3) about the axis (1, 1, 1), by Rodrigues' formula."""
    n = len(angle)
    along = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = angle.cos().view(n, 1, 1), angle.sin().view(n, 1, 1)
    return cos * torch.eye(3) + (1 - cos) * along + sin * cross


class RandomViews:
    """Makes several views of a batch.

    Args:
        kind: ``affine`` (turned, scaled, sheared and shifted, other contrast, noise), ``photo`` (crop, mirror image,
            colours), ``noise`` (Gaussian, of vectors too) or ``none``.
        count: A, number of views.
        noise: Standard deviation of the noise, in units of the inputs (images are in [0, 1]).

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(self, kind: ViewKind, count: int = 2, noise: float = 0.05) -> None:
        one_of(get_args(ViewKind), augment=kind)
        at_least(1, views=count)
        at_least(0, noise=noise)
        self.kind, self.count, self.noise = kind, count, noise

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (B, …) to (B, A, …)."""
        return torch.stack([self.view(x) for _ in range(self.count)], 1)

    def view(self, x: Tensor) -> Tensor:
        """Returns one view (B, …)."""
        if self.kind == "none":
            return x
        if self.kind == "photo":
            return colour_jitter(random_resized_crop(x))
        if self.kind == "affine":
            x = random_affine(x) * _uniform(len(x), 0.7, 1.3).view(-1, 1, 1, 1)
        return x + self.noise * torch.randn_like(x)


def unit_scale(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Returns (x - mean) / std of each channel.

    Args:
        x: Images (B, …, C, H, W).
        mean: Of each channel.
        std: Of each channel, above 0.

    Raises:
        UserError: a deviation is not above 0.
    """
    above(0, std=std)
    return (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
