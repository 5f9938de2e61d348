"""Linear probing: a model's head, the features that are its input, and logistic regression on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework.data.loader import ExactLoader
from framework.editing.names import choose, nothing_matches
from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.observing.probe import pair_of

HEADS = ("head", "classifier", "fc", "output")
"""Usual names of a model's last layer, for models without ``get_classifier()``."""


def find_head(model: nn.Module, name: str | None = None, key: str = "head") -> str:
    """Returns the full name of a model's linear head, V of f(x) = V φ(x) + b.

    Args:
        model: Any module.
        name: The head's name, or its last parts; by default the layer that the model's ``get_classifier()`` returns
            (timm), else its only linear layer with a name in :data:`HEADS`.
        key: The setting, for the message.

    Raises:
        UserError: there is no head, there are several, or it is not a plain linear layer with at least two outputs.
    """
    modules = {own: module for own, module in model.named_modules() if own}
    layers = [own for own, module in modules.items() if type(module) is nn.Linear]
    if name is not None:
        found = choose(modules, [name], key=key)
    else:
        getters = [getattr(module, "get_classifier", None) for module in model.modules()]
        own = {id(get()) for get in getters if callable(get)}
        found = [other for other in layers if id(modules[other]) in own]
        found = found or [other for other in layers if other.rpartition(".")[2] in HEADS]
        if not found:
            raise nothing_matches(" or ".join(HEADS), layers[::-1], f"{key}: no linear head, name one")
    if len(found) > 1:
        raise UserError(f"{key}: {name or 'null'} is not accepted; it names {', '.join(found)}: give one of them")
    head = modules[found[0]]
    if type(head) is not nn.Linear or head.out_features < 2:
        shown = f"{type(head).__name__}" + (f" of {head.out_features} output" if type(head) is nn.Linear else "")
        raise UserError(f"{key}: {found[0]} is a {shown}; expected a torch.nn.Linear with an output for each class")
    return found[0]


@dataclass(frozen=True)
class Seen:
    """A model's features and outputs for some data, on the CPU.

    Attributes:
        features: φ (N, h).
        logits: (N, C).
        labels: (N,) int64.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor


@torch.no_grad()
def see(model: nn.Module, head: str, batches: Iterable[Any], key: str = "head", most: int | None = None) -> Seen:
    """Returns features, logits and labels of batches, in ``eval`` mode.

    Args:
        model: The model; called with a batch's inputs.
        head: Full name of its head, whose input is φ.
        batches: The batches, each inputs and labels.
        key: The setting, for messages.
        most: Largest number of samples.

    Raises:
        UserError: a batch has another form, or the model's output is not that of its head.
    """
    layer = model.get_submodule(head)
    fed: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0]))
    device = next(model.parameters()).device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    count = 0
    try:
        with evaluating(model):
            for batch in batches:
                x, y = pair_of(batch, key.partition(".")[0])
                fed.clear()
                logits = model(x.to(device))
                if len(fed) != 1 or fed[0].shape[:-1] != (len(x),) or not _same(layer(fed[0]), logits):
                    raise UserError(
                        f"{key}: the output of {type(model).__name__} is not that of {head}; expected the layer "
                        "that maps one vector of features an example to the logits"
                    )
                parts.append((fed[0].cpu(), logits.cpu(), y.cpu()))
                count += len(x)
                if most is not None and count >= most:
                    break
    finally:
        handle.remove()
    if not parts:
        raise UserError(f"{key}: there is no data")
    return Seen(*(torch.cat(tensors)[:most] for tensors in zip(*parts, strict=True)))


def _same(a: Tensor, b: Any) -> bool:
    return isinstance(b, Tensor) and a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def batches_of(
    datamodule: Any, part: str, key: str = "head", shuffled: bool = False, size: int | None = None
) -> Iterable[Any]:
    """Returns all of a datamodule's ``train``, ``val`` or ``test`` data, on each process.

    Args:
        datamodule: The run's datamodule.
        part: ``train``, ``val`` or ``test``.
        key: The setting, for messages.
        shuffled: Whether the data is in a fixed random order, instead of its own.
        size: Examples in a batch; by default the evaluation batch size.

    Raises:
        UserError: there is no such data.
    """
    dataset = getattr(datamodule, f"{part}_set", None)
    if dataset is not None:
        count: int = size or getattr(datamodule, "eval_batch_size", None) or 64
        collate = getattr(datamodule, "collate_fn", None)
        return ExactLoader(dataset, count, shuffled, collate_fn=collate, seed=0, ranks=lambda: (1, 0))
    if datamodule is None:
        raise UserError(f"{key}: needs a datamodule with {part} data")
    found = getattr(datamodule, f"{part}_dataloader")()
    found = found[0] if isinstance(found, list | tuple) and found else found
    if found is None or isinstance(found, list | tuple):
        raise UserError(f"{key}: {type(datamodule).__name__} has no {part} data")
    return found


@dataclass(frozen=True)
class ProbeFit:
    """A fitted head.

    Attributes:
        weight: V (C, h), float64.
        bias: b (C,), float64; zeros without an intercept.
        strength: The inverse regularisation C that cross-validation chose.
        validated: Mean accuracy in cross-validation at that strength.
        accuracy: Accuracy on the data of the fit.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    validated: float
    accuracy: float


def fit_probe(
    features: Tensor,
    labels: Tensor,
    classes: int,
    Cs: int = 10,
    cv: int = 5,
    max_iter: int = 5000,
    tol: float = 1e-4,
    bias: bool = True,
    seed: int = 0,
    key: str = "cv",
) -> ProbeFit:
    """Fits an L2-regularised multinomial logistic regression (scikit-learn's), with cross-validated strength.

    For two classes scikit-learn returns one row w; the head gets [−w/2; +w/2], with the same difference of logits.

    Args:
        features: (N, h).
        labels: (N,) int64, from 0.
        classes: Number of classes C; each needs ``cv`` examples.
        Cs: Number of strengths to try, on a logarithmic grid from 1e-4 to 1e4.
        cv: Number of folds.
        max_iter: Largest number of iterations of the solver (L-BFGS).
        tol: Tolerance of the solver.
        bias: Whether to fit an intercept.
        seed: Seed of the folds' shuffling, if there is any.
        key: The setting, for messages.

    Raises:
        UserError: a class has too few examples, a label is not one of the classes, or a feature is not finite.
    """
    from sklearn.linear_model import LogisticRegressionCV

    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise UserError(f"{key}: labels from {found}, the head has {classes} outputs")
    counts = torch.bincount(labels, minlength=classes)
    if int(counts.min()) < cv:
        rare = int(counts.argmin())
        raise UserError(f"{key}: {cv} is not accepted: class {rare} has {int(counts[rare])} examples, a fold needs one")
    if not bool(torch.isfinite(features).all()):
        raise UserError(f"{key}: the features are not finite, so no probe can be fitted")
    x, y = features.double().numpy(), labels.numpy()
    model = LogisticRegressionCV(
        Cs=Cs, cv=cv, max_iter=max_iter, tol=tol, fit_intercept=bias, scoring="accuracy", random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about changing defaults that have no effect here
        model.fit(x, y)
    weight = torch.as_tensor(np.asarray(model.coef_))
    offset = torch.as_tensor(np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), len(weight)).copy())
    if classes == 2:
        weight, offset = (torch.stack([-part[0] / 2, part[0] / 2]) for part in (weight, offset))
    scores = np.asarray(next(iter(model.scores_.values())) if isinstance(model.scores_, dict) else model.scores_)
    return ProbeFit(
        weight,
        offset,
        float(np.ravel(model.C_)[0]),
        float(scores.reshape(-1, Cs).mean(0).max()),
        float(model.score(x, y)),
    )


@torch.no_grad()
def write_head(head: nn.Linear, fit: ProbeFit) -> None:
    """Writes a fitted probe into a head.

    Raises:
        UserError: the shapes differ.
    """
    if head.weight.shape != fit.weight.shape:
        raise UserError(f"the probe is {tuple(fit.weight.shape)}, the head {tuple(head.weight.shape)}")
    head.weight.copy_(fit.weight)
    if head.bias is not None:
        head.bias.copy_(fit.bias)


@torch.no_grad()
def scale_head(head: nn.Linear, scale: float) -> None:
    """Multiplies V by ``scale``, but not b (the paper's study of the head's norm)."""
    head.weight.mul_(scale)
