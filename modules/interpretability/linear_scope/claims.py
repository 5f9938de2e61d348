"""What the LinearScope paper says, and what follows from its construction, in a form that can fail (arXiv 1908.05168).

The paper's claims are qualitative; the numbers beside them are those of measurements at this scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, within
from framework.data.seeding import seeded
from framework.functional.linear_scope import BiasReliance, LinearInterpreter, Standardised, affine_parts
from framework.functional.linear_scope.figures import basis_figure, gallery_figure

CONFIG, SCALING, TRANSLATION = (
    f"interpretability/linear_scope{end}" for end in ("", "_super_resolution", "_image_to_image")
)
SEEDS = (1, 2, 3)
ONET = Path("data/onet/onet.pt")
REPORTED = Bound("reported", lambda value: True)


def claims(run: Reproduction) -> Iterator[Claim]:
    """Exactness first, then digits, photographs, and a pretrained network."""
    yield from exactness()
    yield from digits(run)
    yield from photographs(run)
    yield from faces()


def networks() -> dict[str, Callable[[], nn.Module]]:
    """The ImageNet classifiers of which random weights are interpreted, by name."""
    import timm
    from torchvision.models import squeezenet1_1

    return {
        "ResNet-18": lambda: timm.create_model("resnet18", num_classes=10),
        "VGG-11-BN": lambda: timm.create_model("vgg11_bn", num_classes=10),
        "SqueezeNet": lambda: squeezenet1_1(weights=None, num_classes=10),
    }


def exactness() -> Iterator[Claim]:
    """f(x) = F x + r of known architectures, and three ways to F."""
    for name, build in networks().items():
        with seeded(0):
            net, x = build(), torch.randn(1, 3, 64, 64)
        with LinearInterpreter(net, x) as scope:
            rows = scope.rows(range(10))
            worst = float(max(scope.error.max(), rows.error.max()) / scope.y.abs().max())
        yield Claim(f"{name}, 64x64: max |f − (F x + r)| / max |f|", "exact", worst, at_most(1e-10), "random weights")
    with seeded(0):
        net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten())
        net, x = net.double(), torch.randn(1, 1, 10, 10).double()
    dense = jacrev(lambda z: net(z[None])[0])(x[0]).flatten(1)
    with LinearInterpreter(net, x) as scope:
        by_rows = scope.rows(range(len(dense))).values[0].flatten(1)
        by_columns = scope.columns(range(100)).values[0].T
        worst = max(float((part - dense).abs().max()) for part in (by_rows, by_columns))
    yield Claim("F from impulses, from products with Fᵀ, and from jacrev", "equal", worst, at_most(1e-9))


def _scope(found: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("linear_scope/"): value for name, value in found.items() if name.startswith("linear_")}


def digits(run: Reproduction) -> Iterator[Claim]:
    """How much a classifier of digits rests on its biases, with and without batch norm."""
    shared = ["--techniques.linear_scope.images=0", "--techniques.linear_scope.every_n_epochs=30"]

    def trained(norm: str, bias: str, seed: int) -> dict[str, float]:
        # with the whole mapping: another norm needs no other setting to be dropped
        args = f"--model.backbone_args={{width: 16, norm: {norm}, bias: {bias}}}"
        return _scope(run.fit(CONFIG, *shared, args, f"--seed_everything={seed}"))

    found = {norm: [trained(norm, "true", seed) for seed in SEEDS] for norm in ("batch", "none")}
    scale = "1,438 digits of 8x8, 30 epochs"
    details: dict[str, Any] = {norm: rows for norm, rows in found.items()}
    mean = {norm: {name: fmean(row[name] for row in rows) for name in rows[0]} for norm, rows in found.items()}
    lost = mean["batch"]["acc_full"] - mean["batch"]["acc_votes"]
    count = len(SEEDS)
    text = "classifiers rely on biases"
    yield Claim("batch norm: accuracy lost without r", text, lost, at_least(0.2), scale, details, count)
    yield Claim("batch norm: accuracy of r alone", text, mean["batch"]["acc_bias"], at_least(0.3), scale, {}, count)
    for norm, name in (("batch", "with batch norm"), ("none", "without normalisation")):
        for key, what in (("acc_full", "accuracy of f"), ("acc_votes", "of F x alone"), ("norm_ratio", "‖r‖/‖f‖")):
            yield Claim(f"{name}: {what}", "none", mean[norm][key], REPORTED, scale, {}, count)
    yield Claim("without normalisation: of r alone", "none", mean["none"]["acc_bias"], REPORTED, scale, {}, count)
    free = trained("none", "false", SEEDS[0])
    yield Claim("no biases and no batch norm: ‖r‖/‖f‖", "0", free["norm_ratio"], within(0.0, 0.0), scale)


def photographs(run: Reproduction) -> Iterator[Claim]:
    """The interpreter of a super-resolution network, and of a U-Net."""
    scope = ["--techniques.linear_scope.images=4", "--techniques.linear_scope.every_n_epochs=20"]
    found = _scope(run.fit(SCALING, "--model.skip=false", *scope))
    scale = "x2, 1,500 steps on six photographs, no bicubic skip"
    ratio, gain, near = found["norm_ratio"], found["dc_gain"], found["locality"]
    yield Claim("super-resolution: ‖r‖/‖f‖", "images pass by F, not r", ratio, at_most(0.05), scale, found)
    yield Claim("super-resolution: mean row sum of F", "about 1", gain, within(0.9, 1.1), scale)
    yield Claim("super-resolution: energy of a column within 4 pixels", "local", near, at_least(0.9), scale)
    scope[1] = "--techniques.linear_scope.every_n_epochs=5"
    unet = _scope(run.fit(TRANSLATION, *scope))
    scale = "edges to photographs, 375 steps"
    text = "templates come from r"
    yield Claim("U-Net with instance norm: ‖r‖/‖f‖", text, unet["norm_ratio"], REPORTED, scale, unet)
    text = "copies from far away"
    yield Claim("U-Net: energy of a column within 4 pixels", text, unet["locality"], REPORTED, scale)
    _kept_figures(run)


def _kept_figures(run: Reproduction) -> None:
    """Draws the super-resolution network's rows and singular vectors at a picture, from the run's checkpoint."""
    from framework import open_model

    folders = sorted((run.folder / "runs" / SCALING.rpartition("/")[2]).iterdir(), key=os.path.getmtime)
    net = open_model(folders[-1])
    axis = torch.linspace(-1, 1, 24)
    x = (0.5 + 0.5 * torch.tanh(6 * (axis[:, None] + 0.4 * axis)))[None, None]  # an edge that is not upright
    with LinearInterpreter(net, x) as scope:
        run.figure("super_resolution_basis", basis_figure(scope.svd(16)))
        places = [(0, 24 + step, 24) for step in range(-8, 10, 3)]
        rows = scope.rows(places).values[0]
        titles = [f"output {row}, {column}" for _, row, column in places]
        run.figure("super_resolution_rows", gallery_figure(rows, titles, "rows of F across an edge"))


def faces() -> Iterator[Claim]:
    """The paper's claim on pretrained weights: O-Net on faces and other pictures, in two parametrisations."""
    if not ONET.is_file():
        print(f"  skipped: O-Net's claims need {ONET}; type: make data/onet", flush=True)
        return
    from modules.vision.onet import ONet
    from modules.vision.weights import load_weights

    net = ONet()
    load_weights(net, ONET, "strict")
    pixels, labels = lfw_subset()
    margin = Margin(net)
    raw = Standardised(margin, (127.5,), (128.0,))
    scale = "O-Net, 200 pictures of lfw_subset"
    for name, model, x in (("pixels 0 to 255", raw, pixels), ("normalised pixels", margin, (pixels - 127.5) / 128)):
        y, r, error = affine_parts(model, x.split(50))
        metric = BiasReliance()
        metric.update(y, r, labels)
        found = {key: float(value) for key, value in metric.compute().items()}
        pairs = {"r": r, "votes": y - r}
        found |= {f"correlation of f with {key}": _correlation(y, value) for key, value in pairs.items()}
        found["error"] = float(error.max())
        yield Claim(f"{name}: accuracy of f", "about 1", found["acc_full"], at_least(0.98), scale, found)
        yield Claim(f"{name}: of r alone", "relies on biases", found["acc_bias"], at_least(0.95), scale)
        yield Claim(f"{name}: of the votes F x alone", "chance is 0.5", found["acc_votes"], at_most(0.65), scale)
        yield Claim(f"{name}: mean |r|/|f|", "none", found["norm_ratio"], REPORTED, scale)


class Margin(nn.Module):
    """The difference (N, 1) of a network's two logits.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Returns the margin of the second class."""
        logits = self.net(x)
        return logits[:, 1:] - logits[:, :1]


def lfw_subset() -> tuple[Tensor, Tensor]:
    """Returns 200 pictures (N, 3, 48, 48) from 0 to 255, 100 faces first, and their classes (N,)."""
    from skimage.data import lfw_subset as load

    grey = torch.from_numpy(load()).double()[:, None]
    x = nn.functional.interpolate(grey, (48, 48), mode="bilinear").expand(-1, 3, -1, -1) * 255
    return x.contiguous(), torch.tensor([1, 0]).repeat_interleave(100)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
