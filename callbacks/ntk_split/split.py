"""The tangent kernel of f(x) = V φ(x) + b in two parts: from training V, and from training φ.

Tomihari, Sato, 2024, arXiv 2405.16747, Prop. 4.1: Θ^f(x, x') = P + F with P = (⟨φ(x), φ(x')⟩ + 1) I_C of the head's
weight and bias, and F = V J(x) J(x')ᵀ Vᵀ, J the derivatives of φ by the backbone's parameters. A step η of gradient
descent on a sum of losses changes the logits at x by η Σ_i (P + F)(x, x_i) δ_i, δ_i = e_{y_i} − softmax(f(x_i)), and
the features by η Σ_i J(x) J(x_i)ᵀ Vᵀ δ_i.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from framework.functional.evaluating import evaluating
from framework.functional.ntk.empirical import tangent_kernel
from framework.observing.linear_probe import fit_probe, see


@dataclass(frozen=True)
class Split:
    """Both parts on N points, and the model's output there; float64, on the CPU.

    Attributes:
        pretrain: (N, N'), P without its I_C: ⟨φ(x), φ(x')⟩ of a trained weight, + 1 of a trained bias.
        finetune: F (N, C, N', C).
    """

    pretrain: Tensor
    finetune: Tensor

    def pretrain_whole(self) -> Tensor:
        """Returns P with its I_C, (N, C, N', C)."""
        classes = self.finetune.shape[1]
        return torch.einsum("ij,ab->iajb", self.pretrain, torch.eye(classes, dtype=self.pretrain.dtype))

    def whole(self) -> Tensor:
        """Returns P + F (N, C, N', C)."""
        return self.pretrain_whole() + self.finetune

    def changes(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Returns Σ_i P δ_i and Σ_i F δ_i, (N, C) each, for δ (N', C)."""
        return self.pretrain @ delta, torch.einsum("iajb,jb->ia", self.finetune, delta)

    def ft_ratio(self, delta: Tensor) -> float:
        """Returns the mean over points of ‖Σ F δ‖ / ‖Σ (P + F) δ‖; it may exceed 1."""
        p, f = self.changes(delta)
        return float((f.norm(dim=1) / (p + f).norm(dim=1)).mean())

    def ranks(self) -> tuple[int, int]:
        """Returns the ranks of P and F as matrices (N C, N' C), at torch's tolerance (largest side × ε × largest σ)."""
        classes = self.finetune.shape[1]
        own = int(torch.linalg.matrix_rank(self.pretrain))
        return classes * own, int(torch.linalg.matrix_rank(self.finetune.flatten(2).flatten(0, 1)))


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns δ = e_y − softmax(f), (N, C) float64."""
    return torch.nn.functional.one_hot(labels, logits.shape[1]).double() - logits.double().softmax(-1)


def ntk_split(
    model: nn.Module,
    head: str,
    x: Tensor,
    y: Tensor | None = None,
    parameters: Collection[str] | None = None,
    chunk: int = 64,
) -> Split:
    """Computes P and F of a model in ``eval`` mode, at its current parameters; exact.

    V is multiplied with the Jacobian of φ from the start: the C outputs are differentiated, not the h features.
    A weight or bias of the head that is frozen has no part in P.

    Args:
        model: A model whose output is that of its linear head, with independent points. Use float64 if ranks matter.
        head: Full name of the head.
        x: (N, …).
        y: (N', …); by default ``x``.
        parameters: Names of backbone parameters; by default all trainable ones.
        chunk: Number of points that are differentiated together.

    Raises:
        UserError: no part of the backbone is trained; the output is not that of the head.
    """
    if parameters is None:
        own = [name for name, value in model.named_parameters() if value.requires_grad]
        parameters = [name for name in own if not name.startswith(f"{head}.")]

    def features(points: Tensor) -> Tensor:
        return see(model, head, [(points, torch.zeros(len(points), dtype=torch.int64))]).features.double()

    left = features(x)
    right = left if y is None else features(y)
    layer = model.get_submodule(head)
    weight, bias = (getattr(getattr(layer, name, None), "requires_grad", False) for name in ("weight", "bias"))
    with evaluating(model):
        finetune = tangent_kernel(model, x, y, parameters, chunk, apart=True)
    return Split(float(weight) * (left @ right.T) + float(bias), finetune)


def kernel_regression(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, max_iter: int = 10_000
) -> float:
    """Computes the paper's kernel regression: logistic regression on the kernel's rows, one for each example and class.

    Its targets are the flattened one-hot labels, and its score is the share of N C yes-or-no answers that are right;
    always answering no has a score of 1 − 1/C. It is not the accuracy of a classifier.

    Args:
        train: A kernel on the training points (N, C, N, C).
        labels: (N,).
        test: From test to training points (M, C, N, C).
        test_labels: (M,).
        max_iter: Largest number of iterations of the solver.

    Returns:
        The score on the test points.
    """
    classes = train.shape[1]
    rows, asked = (kernel.flatten(2).flatten(0, 1) for kernel in (train, test))
    answers, right = (torch.nn.functional.one_hot(y, classes).flatten() for y in (labels, test_labels))
    fit = fit_probe(rows, answers, 2, max_iter=max_iter)
    said = asked @ (fit.weight[1] - fit.weight[0]) + (fit.bias[1] - fit.bias[0]) > 0
    return float((said.long() == right).double().mean())
