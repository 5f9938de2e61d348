"""Frozen encoders by name: a small network trained here, a timm model, a checkpoint of this project, or any class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.checkpoints.weights_file import read_weights_file
from framework.config.explain import UnknownClass, find_class
from framework.errors import UserError
from framework.functional.matching import compare_tensors, match_prefix
from framework.observing.activity import activity_of

ACCEPTED = "cnn, pixels, timm:NAME, a checkpoint or run folder, or the path of an nn.Module's class"

Encode = Callable[[Tensor], Tensor]


def open_encoder(
    encoder: str | nn.Module,
    channels: int,
    layer: str | None = None,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Encode:
    """Returns a function from images (B, C, side, side) to features (B, n), without gradients, in evaluation mode.

    Args:
        encoder: ``pixels`` for the images themselves; ``timm:NAME`` for the input of that model's classifier; a
            checkpoint or run folder of this project; the path of a class; or a module.
        channels: C, passed to timm's models.
        layer: Layer whose output are the features; by default the input of the last layer with weights, and for timm
            the model's features.
        weights: A file of weights for a timm model or a class; its classifier's weights are not used.
        arguments: Constructor arguments of a timm model or a class.

    Raises:
        UserError: there is no such encoder or layer, its arguments are not accepted, or the weights do not fit.
    """
    if encoder == "pixels":
        return lambda x: x.flatten(1)
    given = dict(arguments or {})
    whole = False
    if isinstance(encoder, nn.Module):
        model: nn.Module = encoder
    elif encoder.startswith("timm:"):
        model = _timm_model(encoder.removeprefix("timm:"), channels, given)
        whole = layer is None
    elif Path(encoder).expanduser().exists() or encoder.endswith(".ckpt"):
        from framework.checkpoints.opening import open_model

        if weights is not None:
            raise UserError(f"weights: {weights} given, but the checkpoint {encoder} has its own")
        model = open_model(Path(encoder).expanduser(), **given)
    else:
        try:
            cls = find_class(encoder if "." in encoder else None, nn.Module)
            model = cls(**given)
        except UnknownClass as error:
            raise UserError(f"encoder: {encoder!r} is not accepted ({error}); {ACCEPTED}") from error
        except TypeError as error:
            raise UserError(f"encoder: {encoder} refused its arguments {given}: {error}") from error
    if weights is not None:
        _load(model, weights)
    model.eval()

    def encode(x: Tensor) -> Tensor:
        if not whole:
            return activity_of(model, x, layer)
        with torch.no_grad():
            features: Tensor = model(x)
        return features.flatten(1)

    return encode


def _timm_model(name: str, channels: int, arguments: dict[str, Any]) -> nn.Module:
    import timm  # here, because importing it costs seconds

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=5, cutoff=0.0)
        raise UserError(f"encoder: timm has no model {name!r}; nearest: {', '.join(near)}")
    given = {"num_classes": 0, "in_chans": channels, **arguments, "pretrained": False}
    try:
        model: nn.Module = timm.create_model(name, **given)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"encoder: timm's {name} refused its arguments {given}: {error}") from error
    return model


def _load(model: nn.Module, path: str | Path) -> None:
    own = model.state_dict()
    state = match_prefix(own, read_weights_file(path)[0])
    fit = compare_tensors(own, state)
    if fit.missing or fit.reshaped:
        wrong = fit.problems(own, state)
        raise UserError(f"weights: {path} does not fit: {'; '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}")
    model.load_state_dict({name: state[name] for name in own})


def encoded(encode: Encode, x: Callable[[slice], Tensor], samples: int, batch_size: int = 500) -> Tensor:
    """Computes features of images.

    Args:
        encode: Maps images (B, C, H, W) to features (B, n).
        x: Returns the images of a slice.
        samples: N, number of images.
        batch_size: Images at a time.

    Returns:
        (N, n) float32.
    """
    parts = [encode(x(slice(start, start + batch_size))).float() for start in range(0, samples, batch_size)]
    return torch.cat(parts)
