"""Files for complete verifiers: a network as ONNX and one VNN-LIB property a sample.

What interval bounds leave unknown, a complete verifier can decide (α,β-CROWN, Marabou, nnenum, …). The files are those
of the verifiers' competition (VNN-COMP, arXiv 2312.16760): ``network.onnx`` maps pixels from 0 to 1 to logits, its
batch norms merged with the layers before them; ``sample_00000.vnnlib`` and so on describe the wrong answers that must
not be reachable: X_i within the box of the i-th pixel (counted along channels, rows, columns) and some Y_j ≥ Y_label.
A verifier's *unsat* is a proof, *sat* an attack. ``instances.csv`` lists network, property and time limit,
``samples.csv`` what is known already.
"""

from __future__ import annotations

import csv
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.functional.interval.boxes import Box, certified, pixel_box
from framework.functional.interval.network import IntervalNetwork
from framework.settings import above

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORK = "network.onnx"
TOLERANCE = 1e-4  # of the exported network's outputs, relative to the largest


def vnnlib_property(box: Box, label: int, classes: int) -> str:
    """Returns the VNN-LIB text whose solutions are the attacks within a box.

    Args:
        box: Of one sample (…); its bounds are written with all their digits.
        label: The sample's class.
        classes: Number of classes.

    Raises:
        UserError: the label is not one of the classes, there is one class only, or a bound is not finite.
    """
    if classes < 2 or not 0 <= label < classes:
        raise UserError(f"label {label} of {classes} classes: two or more are needed, and labels from 0")
    if not (box.centre.isfinite().all() and box.radius.isfinite().all()):
        raise UserError("a box that is not finite cannot be written")
    # to [0, 1]: rounding may have taken a bound out of it
    lower, upper = (bound.detach().double().clamp(0, 1).flatten().tolist() for bound in (box.lower, box.upper))
    lines = [f"; attacks: another class than {label} within the box"]
    lines += [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {low:.17f}))", f"(assert (<= X_{i} {high:.17f}))"]
    wrong = " ".join(f"(and (>= Y_{j} Y_{label}))" for j in range(classes) if j != label)
    return "\n".join([*lines, f"(assert (or {wrong}))", ""])


def write_verifier_files(
    folder: str | Path, net: nn.Module, x: Tensor, y: Tensor, eps: float, seconds: float = 60.0
) -> list[Path]:
    """Writes a network and its samples for a complete verifier, and returns the properties' files.

    Args:
        folder: Where to write; it is made if need be.
        net: Maps inputs (B, …) in [0, 1] to logits (B, C), C ≥ 2; :func:`framework.functional.pixels.in_pixels` makes
            one from a network of normalised inputs.
        x: Inputs (B, …) in [0, 1], at least one.
        y: Classes (B,).
        eps: Largest change of a pixel, from 0 to 1.
        seconds: Time limit of a sample, for ``instances.csv``.

    Raises:
        UserError: the packages ``onnx`` and ``onnxscript`` are missing, the network cannot be exported or computes
            something else afterwards, a setting is not accepted, or the inputs are outside [0, 1].
    """
    above(0, seconds=seconds)
    if not len(x) or len(x) != len(y):
        raise UserError(f"{len(x)} inputs and {len(y)} classes: at least one of each is needed, and as many")
    with evaluating(net), torch.no_grad():
        box, logits = pixel_box(x, eps), net(x)
        margins = IntervalNetwork(net).propagate(box, y).margins
        assert margins is not None
        proven = certified(margins, y).tolist()
        texts = [
            vnnlib_property(Box(centre, radius), int(label), logits.shape[1])
            for centre, radius, label in zip(*box, y, strict=True)
        ]
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        export_onnx(net, x[:1], out / NETWORK)
    files = [out / f"sample_{number:05d}.vnnlib" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="ascii")
    with (out / "instances.csv").open("w", newline="", encoding="ascii") as stream:
        csv.writer(stream).writerows([NETWORK, file.name, f"{seconds:g}"] for file in files)
    with (out / "samples.csv").open("w", newline="", encoding="ascii") as stream:
        writer = csv.writer(stream)
        writer.writerow(["property", "label", "prediction", "certified_by_bounds"])
        predicted = logits.argmax(1).tolist()
        writer.writerows(zip((file.name for file in files), y.tolist(), predicted, map(int, proven), strict=True))
    return files


def export_onnx(net: nn.Module, x: Tensor, file: Path) -> None:
    """Writes a network as ONNX, in evaluation mode, and compares its output on x with the network's own.

    Args:
        net: The network.
        x: One input (1, …); the file takes inputs of this shape.
        file: The file to write.

    Raises:
        UserError: the packages are missing, the network cannot be exported, or the outputs differ.
    """
    try:
        import onnx.reference
        import onnxscript  # noqa: F401 - what torch exports with
    except ImportError as error:
        raise UserError(f"ONNX files need the package {error.name}: pip install 'modular-framework[onnx]'") from error
    with evaluating(net), torch.no_grad(), _quiet():
        expected = net(x)
        try:
            program = torch.onnx.export(net, (x,), input_names=["X"], output_names=["Y"], dynamo=True, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()
            raise UserError(
                f"{type(net).__name__} cannot be exported to ONNX: {reason[0] if reason else error}"
            ) from None
    assert program is not None
    model = program.model_proto
    outputs: Any = onnx.reference.ReferenceEvaluator(model).run(None, {"X": x.detach().cpu().numpy()})
    difference = float((torch.from_numpy(outputs[0]) - expected.cpu()).abs().max())
    if not difference <= TOLERANCE * max(float(expected.abs().max()), 1e-30):
        raise UserError(f"the exported network's outputs differ by {difference:.3g} from those of {type(net).__name__}")
    onnx.save(model, str(file))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter logs and warns of in torch's own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
