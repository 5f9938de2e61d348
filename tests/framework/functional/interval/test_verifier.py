"""Files for complete verifiers: the property's solutions are the attacks, the ONNX file computes the network."""

from __future__ import annotations

import csv
import itertools
import re
import sys

import pytest
import torch
from torch import nn

from framework.errors import UserError
from framework.functional.interval import (
    Box,
    certified,
    export_onnx,
    pixel_box,
    vnnlib_property,
    write_verifier_files,
)
from framework.functional.interval.network import IntervalNetwork
from framework.functional.pixels import in_pixels


def read(text: str):
    """The declared names and the assertions of a VNN-LIB text, as nested lists."""
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", text))

    def expression(position: int):
        if tokens[position] != "(":
            return tokens[position], position + 1
        found, position = [], position + 1
        while tokens[position] != ")":
            part, position = expression(position)
            found.append(part)
        return found, position + 1

    position, names, assertions = 0, [], []
    while position < len(tokens):
        part, position = expression(position)
        if part[0] == "declare-const":
            assert part[2] == "Real"
            names.append(part[1])
        else:
            assert part[0] == "assert"
            assertions.append(part[1])
    return names, assertions


def holds(expression, values) -> bool:
    name, *parts = expression
    if name in ("and", "or"):
        return (all if name == "and" else any)(holds(part, values) for part in parts)
    a, b = (values[part] if part in values else float(part) for part in parts)
    return {"<=": a <= b, ">=": a >= b}[name]


def attack(text: str, x, outputs) -> bool:
    """Whether inputs and outputs solve a property."""
    names, assertions = read(text)
    x, outputs = x.double().flatten().tolist(), outputs.double().tolist()
    values = {**{f"X_{i}": v for i, v in enumerate(x)}, **{f"Y_{j}": v for j, v in enumerate(outputs)}}
    assert names == list(values)
    return all(holds(assertion, values) for assertion in assertions)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def corners(box: Box):
    """The 2^d corners of one sample's box, (2^d, d)."""
    ends = torch.stack([box.lower.flatten(), box.upper.flatten()])
    return torch.stack([torch.stack(corner) for corner in itertools.product(*ends.T)])


def test_corners_solve_the_property_exactly_where_the_class_changes():
    met = set()
    for seed in range(6):
        net = network(seed)
        x = torch.rand(1, 1, 2, 2)
        box, label = pixel_box(x, 0.2), int(net(x).argmax())
        text = vnnlib_property(Box(*(part[0] for part in box)), label, 3)
        for corner in corners(box):
            outputs = net(corner.view(1, 1, 2, 2))[0].detach()
            others = torch.cat([outputs[:label], outputs[label + 1 :]])
            wrong = bool((others >= outputs[label]).any())
            assert attack(text, corner, outputs) == wrong
            met.add(wrong)
            assert not attack(text, corner + 1e-3, outputs)  # not within the box
    assert met == {True, False}


def test_a_certified_sample_has_no_solution_among_the_corners():
    net, x = network(), torch.rand(16, 1, 2, 2)
    y = net(x).argmax(1)
    box = pixel_box(x, 0.02)
    margins = IntervalNetwork(net).propagate(box, y).margins
    proven = certified(margins, y).nonzero()[:, 0].tolist()
    assert proven
    for number in proven:
        own = Box(*(part[number] for part in box))
        text = vnnlib_property(own, int(y[number]), 3)
        for corner in corners(own):
            assert not attack(text, corner, net(corner.view(1, 1, 2, 2))[0].detach())


def test_bounds_are_written_with_all_digits_within_0_and_1():
    x = torch.tensor([[0.0, 1e-7, 0.3, 1.0]])
    box = pixel_box(x, 4 / 255)
    _, assertions = read(vnnlib_property(Box(box.centre[0], box.radius[0]), 0, 2))
    written = [float(number) for _, name, number in assertions[:-1]]
    expected = torch.stack([box.lower[0].clamp(0, 1), box.upper[0].clamp(0, 1)], 1).double().flatten().tolist()
    assert written == pytest.approx(expected, abs=1e-16)
    assert min(written) == 0
    assert max(written) == 1


@pytest.mark.parametrize(("label", "classes"), [(3, 3), (-1, 3), (0, 1)])
def test_labels_outside_the_classes_are_refused(label, classes):
    with pytest.raises(UserError, match=f"label {label} of {classes} classes"):
        vnnlib_property(pixel_box(torch.rand(4), 0.1), label, classes)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx.reference", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'modular-framework\[onnx\]'"):
        write_verifier_files(tmp_path / "v", network(), torch.rand(1, 1, 2, 2), torch.tensor([0]), 0.1)


@pytest.mark.release
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_files_of_a_convolutional_network(tmp_path, batch_norm):
    import onnx
    from onnx.reference import ReferenceEvaluator

    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(3)] if batch_norm else []
    net = nn.Sequential(nn.Conv2d(1, 3, 2, padding=1), *norm, nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(3, 4))
    net(torch.randn(64, 1, 2, 2))  # moves the running statistics
    normalised = torch.randn(3, 1, 2, 2).clamp(-0.4, 0.5)
    pixels, x = in_pixels(net, normalised, [0.5], [1.0])
    y = pixels(x).argmax(1)
    net.train()
    files = write_verifier_files(tmp_path, pixels, x, y, 0.05, seconds=30)
    assert net.training
    assert [file.name for file in files] == [f"sample_0000{number}.vnnlib" for number in range(3)]
    rows = list(csv.reader((tmp_path / "instances.csv").open()))
    assert rows == [["network.onnx", file.name, "30"] for file in files]
    known = list(csv.DictReader((tmp_path / "samples.csv").open()))
    assert [int(row["label"]) for row in known] == y.tolist()
    model = onnx.load(tmp_path / "network.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    run = ReferenceEvaluator(model)
    pixels.eval()
    for file, image, label in zip(files, x, y, strict=True):
        for corner in corners(Box(*(part[0] for part in pixel_box(image[None], 0.05)))):
            given = corner.view(1, 1, 2, 2)
            outputs = torch.from_numpy(run.run(None, {"X": given.numpy()})[0])[0]
            torch.testing.assert_close(outputs, pixels(given)[0].detach(), rtol=1e-4, atol=1e-5)
            wrong = bool((outputs.argmax() != label) | (outputs.topk(2).values.diff().abs() == 0))
            assert attack(file.read_text(), corner, outputs) == wrong


@pytest.mark.release
def test_what_cannot_be_exported_is_refused(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x) if x.sum() > 0 else -self.net(x)

    with pytest.raises(UserError, match="Odd cannot be exported to ONNX"):
        export_onnx(Odd().eval(), torch.rand(1, 1, 2, 2), tmp_path / "n.onnx")
