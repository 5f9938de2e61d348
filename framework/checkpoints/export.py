"""Exports a checkpoint without the state that only training needs; the weights plain, in RF8 or entropy coded.

The file opens like any checkpoint: with :func:`framework.open_model`, :func:`framework.open_checkpoint`,
``validate``/``test``/``predict --ckpt_path``, and as a file of pretrained weights. It holds only plain data. Matrices
and larger tensors of floating type are compressed; vectors (norms, biases), buffers and integers stay unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.checkpoints import container
from framework.checkpoints.finding import find_checkpoint
from framework.checkpoints.opening import open_model
from framework.checkpoints.reading import open_checkpoint
from framework.checkpoints.writing import AtomicCheckpointIO
from framework.editing.ledger import attach, store
from framework.editing.names import choose
from framework.errors import UserError
from framework.functional.compression import rf8
from framework.functional.compression.rate import STEP, BitRate, bits_per_weight, sqnr
from framework.plain import plain_data
from framework.settings import above, one_of

FORMATS = ("rf8", "entropy", "exp_golomb", "plain")

_TRAINING_ONLY = (
    *("optimizer_states", "lr_schedulers", "loops", "callbacks", "MixedPrecision", "AMP", "resume_point"),
    *("averaging_state", "current_model_state"),  # state_dict holds the averaged weights
)


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        file: The file written.
        format: Format of the weights.
        step: Distance between two levels; ``None`` if the format has none.
        tensors: Number of compressed tensors.
        weights: Number of their elements.
        others: Number of elements of the tensors that were not compressed.
        bits: Bits per compressed weight, tables included.
        sqnr: Signal-to-quantisation-noise ratio of the compressed weights, in dB; infinite if they are unchanged.
        rate: Code rates of the weights at ``step`` (at 2⁻¹³ for other formats) before the export.
        bytes_before: Size of the source file; 0 for a model.
        bytes_weights: Size of all weights, uncompressed.
        bytes_after: Size of the file written.
    """

    file: Path
    format: str
    step: float | None
    tensors: int
    weights: int
    others: int
    bits: float
    sqnr: float
    rate: BitRate
    bytes_before: int
    bytes_weights: int
    bytes_after: int
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Returns the report as lines of text."""
        stored = "all as they are" if self.format == "plain" else f"{self.others:,} numbers as they are"
        lines = [
            f"{self.file}: {self.format}",
            f"  weights         {self.weights:,} in {self.tensors} tensors; {stored}",
            f"  bits a weight   {self.bits:.2f}  (at step {self.step or STEP:g}: exp-Golomb {self.rate.eg:.2f}, "
            f"entropy {self.rate.entropy:.2f}, fixed length {self.rate.fixed})",
            f"  SQNR            {self.sqnr:.1f} dB",
        ]
        before = f"{_size(self.bytes_before)} before, " if self.bytes_before else ""
        factor = self.bytes_weights / max(1, self.bytes_after)
        lines.append(
            f"  file            {_size(self.bytes_after)}; {before}{_size(self.bytes_weights)} of plain weights "
            f"({factor:.2f} times as much)"
        )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"


def export(
    model: nn.Module | str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    format: str = "rf8",
    *,
    step: float = STEP,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    deep_shape: bool = False,
    cls: type[pl.LightningModule] | None = None,
) -> ExportReport:
    """Writes the weights of a model or a checkpoint, without optimiser states, to a file that opens as a checkpoint.

    Args:
        model: A module, a checkpoint file, or a run folder (then its ``last.ckpt``).
        file: The file to write; by default beside the checkpoint, ``last.rf8.ckpt`` for ``last.ckpt``.
        format: ``rf8`` (8 bits a weight), ``entropy`` (rounded to ``step``, rANS: about the entropy), ``exp_golomb``
            (rounded to ``step``, exp-Golomb codes of the frequency ranks) or ``plain``.
        step: Distance between two levels, for the entropy codes.
        include: Patterns of the tensors to compress; ``None`` for all with at least two dimensions.
        exclude: Patterns of tensors that are not compressed.
        deep_shape: Whether the weights' histogram is remapped first (see
            :mod:`framework.functional.compression.histogram`); a model in memory is not changed by it.
        cls: Class of a checkpoint's module, which tells parameters from buffers; by default that of the run folder that
            the checkpoint is in. If it is not known, buffers with at least two dimensions are treated as weights.

    Raises:
        UserError: a setting is not accepted, the checkpoint cannot be read, a pattern matches nothing, a tensor holds
            NaN or infinity, or the file cannot be written.
    """
    one_of(FORMATS, format=format)
    above(0, step=step)
    source: Path | None = None
    buffers: set[str] = set()
    notes: list[str] = []
    if isinstance(model, nn.Module):
        content = _checkpoint_of(model)
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        if file is None:
            raise UserError("export: a model in memory needs a file to be written to")
    else:
        source = Path(model).expanduser()
        source = find_checkpoint(str(source)) if source.is_dir() else source
        content = open_checkpoint(source)
        try:
            buffers = {name for name, _ in open_model(source, cls).named_buffers(remove_duplicate=False)}
        except UserError:
            if cls is not None:
                raise
            notes.append("no class is known: buffers of two and more dimensions were taken as weights; --exclude them")
    target = Path(file).expanduser() if file is not None else source.with_name(f"{source.stem}.{format}.ckpt")  # type: ignore[union-attr]
    if target.is_dir():
        raise UserError(f"export: {target} is a folder; give a file")
    if source is not None and target.resolve() == source.resolve():
        raise UserError(f"export: {target} is the checkpoint that is read; give another file")
    content = {key: value for key, value in content.items() if key not in _TRAINING_ONLY}
    state: dict[str, Any] = dict(content["state_dict"])
    known = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor)
        and value.dtype in rf8.DTYPES.values()
        and value.ndim > 1
        and value.numel()
        and name not in buffers
    }
    chosen, same = _untied({name: known[name] for name in choose(known, include, exclude, "include")})
    if not chosen and format != "plain":
        raise UserError(f"export: no matrix is left to write as {format}; include more, or use format plain")
    before = {name: tensor.detach() for name, tensor in chosen.items()}
    for name, tensor in before.items():
        if not all(torch.isfinite(end) for end in torch.aminmax(tensor)):
            raise UserError(f"export: {name} holds NaN or infinity, which have no code")
    if deep_shape:
        from framework.functional.compression.histogram import deep_shape_

        before = {name: tensor.clone() for name, tensor in before.items()}
        notes.append(deep_shape_(list(before.values())).text())
    rate = bits_per_weight(before.values(), step)
    weights = sum(tensor.numel() for tensor in before.values())
    own = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    bytes_weights = sum(t.numel() * t.element_size() for t in _untied(_only_tensors(state))[0].values())
    if format == "plain":
        content["state_dict"] = {**state, **before, **{name: before[source] for name, source in same.items()}}
        bits = 8 * sum(t.numel() * t.element_size() for t in before.values()) / max(1, weights)
        ratio = sqnr(before.values(), before.values())
    else:
        coder = "exp_golomb" if format == "exp_golomb" else "rans"
        packed = container.pack_rf8(before) if format == "rf8" else container.pack_entropy(before, step, coder)
        packed |= {"schema": container.SCHEMA, "order": list(state), "same": same, "crc": container.checksum(packed)}
        content["state_dict"] = {
            name: value for name, value in state.items() if name not in before and name not in same
        }
        content[container.KEY] = packed
        bits = 8 * container.code_bytes(packed) / max(1, weights)
        ratio = sqnr(before.values(), container.unpack(packed).values())
    AtomicCheckpointIO().save_checkpoint(content, target)
    return ExportReport(
        file=target,
        format=format,
        step=step if format in ("entropy", "exp_golomb") else None,
        tensors=len(before),
        weights=weights,
        others=own - weights - sum(state[name].numel() for name in same),
        bits=bits,
        sqnr=ratio,
        rate=rate,
        bytes_before=source.stat().st_size if source is not None else 0,
        bytes_weights=bytes_weights,
        bytes_after=target.stat().st_size,
        notes=notes,
    )


def _only_tensors(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _untied(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns each tensor once, and for every other name of a tied tensor its first name."""
    first: dict[Any, str] = {}
    same = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        if first.setdefault(place, name) != name:
            same[name] = first[place]
    return {name: tensor for name, tensor in tensors.items() if name not in same}, same


def _checkpoint_of(model: nn.Module) -> dict[str, Any]:
    """Returns the checkpoint that Lightning would save of a model."""
    content: dict[str, Any] = {
        "pytorch-lightning_version": pl.__version__,
        "epoch": 0,
        "global_step": 0,
        "state_dict": {
            name: value.detach().cpu() if isinstance(value, Tensor) else value
            for name, value in model.state_dict().items()
        },
    }
    if not isinstance(model, pl.LightningModule):
        store(model, content)
        return content
    if model.hparams:
        content["hyper_parameters"] = plain_data(dict(model.hparams))
        if name := getattr(model, "_hparams_name", None):
            content["hparams_name"] = name
    attach(model)
    model.on_save_checkpoint(content)
    return content
