"""AdamW for models with large tables: only the rows of a table that have a gradient take time.

Sources: AdamW, Loshchilov & Hutter 2019 (arXiv 1711.05101); the lazy form is torch's ``SparseAdam`` and TensorFlow's
``LazyAdam``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from framework.settings import one_of

Untouched = Literal["skip", "catch_up"]
NEGLIGIBLE = 1e-9  # share of a step below which the rest of a momentum's tail is skipped


class RowAdamW(Optimizer):
    """AdamW that reads and writes only the rows of a sparse gradient (``nn.Embedding(sparse=True)``).

    Parameters with dense gradients are updated as by ``torch.optim.AdamW``, with its fused implementation if ``fused``
    is set. The number of steps in the bias correction is the parameter's, not the row's.

    Rows without a gradient are updated according to ``untouched``:

    - ``skip``: not at all. Weight decay and the decay of the moments count only the steps in which a row has a
      gradient. Without weight decay this is ``torch.optim.SparseAdam``.
    - ``catch_up``: the missed steps of AdamW with zero gradients are made up when a row has a gradient again, before
      its step, or for all rows by :meth:`catch_up`. With the same gradients the weights then equal those of dense
      AdamW; in between, a row has its value of its last step. A row takes one pass per missed step, until its momentum
      is negligible (175 for betas 0.9, 0.95).

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        eps: Term added to the square root of the second moment.
        weight_decay: Decoupled weight decay; each step subtracts ``lr · weight_decay`` times the weight.
        untouched: ``skip`` or ``catch_up``, see above.
        fused: As in ``torch.optim.AdamW``; for dense parameters only.

    Raises:
        UserError: ``untouched`` is not accepted.
        ValueError: another setting is not accepted.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        untouched: Untouched = "skip",
        fused: bool | None = None,
    ) -> None:
        one_of(get_args(Untouched), **{"optimizer.args.untouched": untouched})
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas) or len(betas) != 2:
            raise ValueError(f"lr {lr}, betas {betas}, eps {eps}, weight_decay {weight_decay}")
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "untouched": untouched, "fused": fused})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Performs one step; returns the closure's value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            dense = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not self.state[parameter]:
                    self._begin(parameter, group)
                if parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
                else:
                    dense.append(parameter)
            self._step_dense(dense, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state; torch's method would cast the counts of rows and steps to the parameter's type."""
        super().load_state_dict(state_dict)
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for name, parameter in zip(names, parameters, strict=True):
            saved = state_dict["state"].get(name, {})
            for key in ("last", "rates", "kept"):
                if key in saved:
                    device = parameter.device if key == "last" else "cpu"
                    self.state[parameter][key] = saved[key].clone().to(device)

    def _begin(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if group["fused"] else None)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if group["untouched"] == "catch_up" and parameter.grad is not None and parameter.grad.is_sparse:
            state["last"] = torch.zeros(len(parameter), dtype=torch.int64, device=parameter.device)
            # for each step so far: the learning rate, and the logarithm of the factor of weight decay since the first
            state["rates"] = torch.zeros(64, dtype=torch.float64)
            state["kept"] = torch.zeros(65, dtype=torch.float64)

    def _step_dense(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        assert parameter.grad is not None
        grad = parameter.grad.coalesce()
        rows, values = grad._indices()[0], grad._values()
        state["step"] += 1
        step = int(state["step"])
        if "last" in state:
            self._note(state, step, group)
            self._bring(parameter, state, group, rows, step - 1)
            state["last"][rows] = step
        beta1, beta2 = group["betas"]
        # index_select and index_copy_ take a fraction of the time of [rows]
        first = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        weight = parameter.index_select(0, rows).mul_(1 - group["lr"] * group["weight_decay"])
        denominator = second.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        weight.addcdiv_(first, denominator, value=-group["lr"] / (1 - beta1**step))
        parameter.index_copy_(0, rows, weight)

    def _note(self, state: dict[str, Any], step: int, group: dict[str, Any]) -> None:
        """Records the step's learning rate and weight decay."""
        if step > len(state["rates"]):
            for name in ("rates", "kept"):
                state[name] = torch.cat([state[name], torch.zeros(len(state["rates"]), dtype=torch.float64)])
        state["rates"][step - 1] = group["lr"]
        state["kept"][step] = state["kept"][step - 1] + math.log1p(-group["lr"] * group["weight_decay"])

    def _bring(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any], rows: Tensor, to: int) -> None:
        """Performs the missed steps of ``rows`` with zero gradients, up to step number ``to``."""
        last = state["last"][rows]
        late = (last < to) & (last > 0)  # before its first gradient a row has no momentum
        fresh = (last == 0) & (to > 0)
        kept = state["kept"].to(parameter.device)
        decay = group["weight_decay"] != 0
        if decay and fresh.any():
            parameter[rows[fresh]] *= kept[to].exp().to(parameter.dtype)
        rows, last = rows[late], last[late]
        if not len(rows):
            return
        missed = to - last
        order = missed.argsort(descending=True)  # unfinished rows come first
        rows, last, missed = rows[order], last[order], missed[order]
        beta1, beta2 = group["betas"]
        shape = (-1, *[1] * (parameter.ndim - 1))
        first, second = state["exp_avg"].index_select(0, rows), state["exp_avg_sq"].index_select(0, rows)
        weight = parameter.index_select(0, rows)
        if decay:
            weight = weight * (kept[to] - kept[last]).exp().to(weight.dtype).view(shape)
        rates = state["rates"].to(parameter.device)
        for ahead in range(1, min(int(missed[0]), _tail(beta1, beta2)) + 1):
            here = int((missed >= ahead).sum())
            at = last[:here] + ahead
            exact = at.double()
            scale = rates[at - 1] * beta1**ahead / (1 - beta1**exact) * (kept[to] - kept[at]).exp()
            root = (second[:here] * beta2**ahead).sqrt()
            root = root / (1 - beta2**exact).sqrt().to(root.dtype).view(shape) + group["eps"]
            weight[:here] -= scale.to(root.dtype).view(shape) * first[:here] / root
        parameter.index_copy_(0, rows, weight)
        first = first * (beta1 ** missed.double()).to(first.dtype).view(shape)
        second = second * (beta2 ** missed.double()).to(second.dtype).view(shape)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Updates all rows of tables with ``untouched: catch_up`` to the current step; for example after training."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if "last" in state:
                    step = int(state["step"])
                    self._bring(parameter, state, group, torch.arange(len(parameter), device=parameter.device), step)
                    state["last"].fill_(step)


@torch.no_grad()
def clip_norm_(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scales gradients down so that their common norm is at most ``most``; returns the norm before.

    Like ``torch.nn.utils.clip_grad_norm_``, which accepts sparse gradients only in recent versions of torch.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # sums the entries of one row first
            values.append(parameter.grad._values())
        else:
            values.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(values)
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(values, scale)
    return norm


def _tail(beta1: float, beta2: float) -> int:
    """Returns the number of steps after which the momentum moves less than ``NEGLIGIBLE`` of a step."""
    ratio = beta1 / math.sqrt(beta2) if beta2 else 1.0
    if beta1 == 0:
        return 0
    return 1 << 30 if ratio >= 1 else math.ceil(math.log(NEGLIGIBLE) / math.log(ratio))
