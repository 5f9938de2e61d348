"""Linear probing: the head of a model, what it is fed, and logistic regression on that."""

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
from framework.observing.probe import evaluating, pair_of

HEADS = ("head", "classifier", "fc", "output")
"""What a model's last layer is usually called, where the model has no ``get_classifier()``."""


def find_head(model: nn.Module, name: str | None = None, key: str = "head") -> str:
    """The full name of a model's linear head, V of f(x) = V φ(x) + b.

    Args:
        model: Any module.
        name: The head's name, or the last parts of it; without one, what the model's ``get_classifier()`` gives
            (timm), else its only linear layer with a name in :data:`HEADS`.
        key: For the message.

    Raises:
        UserError: there is none, there are several, or it is not a plain linear layer of at least two outputs.
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
    """What a model makes of some data, on the CPU.

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
    """Features, logits and labels of batches, in ``eval`` mode.

    Args:
        model: Called with a batch's inputs.
        head: Full name of its head, whose input is φ.
        batches: Inputs and labels each.
        key: For a message.
        most: Samples, at most.

    Raises:
        UserError: a batch is something else; the model's output is not what its head gives.
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
                        f"{key}: the output of {type(model).__name__} is not what {head} gives; expected the layer "
                        "that maps one vector of features an example to the logits"
                    )
                parts.append((fed[0].cpu(), logits.cpu(), y.cpu()))
                count += len(x)
                if most is not None and count >= most:
                    break
    finally:
        handle.remove()
    if not parts:
        raise UserError(f"{key}: there is no data to look at")
    return Seen(*(torch.cat(tensors)[:most] for tensors in zip(*parts, strict=True)))


def _same(a: Tensor, b: Any) -> bool:
    return isinstance(b, Tensor) and a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5)


def batches_of(
    datamodule: Any, part: str, key: str = "head", shuffled: bool = False, size: int | None = None
) -> Iterable[Any]:
    """All of a datamodule's ``train``, ``val`` or ``test`` data; each process gets all of it.

    Args:
        datamodule: The run's.
        part: Which data.
        key: For a message.
        shuffled: Whether it comes in a random order, always the same one, instead of its own.
        size: Examples in a batch; those of an evaluation by default.

    Raises:
        UserError: there is no such data.
    """
    dataset = getattr(datamodule, f"{part}_set", None)
    if dataset is not None:
        count: int = size or getattr(datamodule, "eval_batch_size", None) or 64
        collate = getattr(datamodule, "collate_fn", None)
        return ExactLoader(dataset, count, shuffled, collate_fn=collate, seed=0, ranks=lambda: (1, 0))
    if datamodule is None:
        raise UserError(f"{key}: needs a datamodule, whose {part} data it looks at")
    found = getattr(datamodule, f"{part}_dataloader")()
    found = found[0] if isinstance(found, list | tuple) and found else found
    if found is None or isinstance(found, list | tuple):
        raise UserError(f"{key}: {type(datamodule).__name__} has no {part} data to look at")
    return found


@dataclass(frozen=True)
class ProbeFit:
    """A fitted head.

    Attributes:
        weight: V (C, h), float64.
        bias: b (C,), float64; zeros without an intercept.
        strength: The inverse regularisation C that cross-validation chose.
        validated: Mean accuracy in cross-validation at that strength.
        accuracy: On the data itself.
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
    """L2-regularised multinomial logistic regression, its strength cross-validated (scikit-learn's).

    Of two classes scikit-learn gives one row w; the head has [−w/2; +w/2], the same difference of logits.

    Args:
        features: (N, h).
        labels: (N,) int64, from 0.
        classes: C; each needs ``cv`` examples.
        Cs: Strengths that are tried, on a logarithmic grid from 1e-4 to 1e4.
        cv: Folds.
        max_iter: Of the solver (L-BFGS).
        tol: Its tolerance.
        bias: Whether there is an intercept.
        seed: Of the folds' shuffling, where there is any.
        key: For a message.

    Raises:
        UserError: a class has too few examples, a label is none of the classes, or a feature is not finite.
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
        warnings.simplefilter("ignore", FutureWarning)  # on defaults that change, which make no difference here
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
    """Multiplies V by ``scale``; b stays (the paper's study of the head's norm)."""
    head.weight.mul_(scale)
