"""Prompt shift: the error of a model that answers regression prompts on prompts that differ from training.

Paper: Zhang, Frei, Bartlett, 2024, arXiv 2306.09927 (Section 4.3: task, query and covariate shifts); Garg, Tsipras,
Liang, Valiant, 2022, arXiv 2208.01066.

When training ends, the error at the query is measured over ``prompts`` drawn prompts under each of four shifts, one at
a time: all covariates times c (``scale``; labels are those of the new covariates), the query alone times c
(``query``), the tasks times c (``task``), and label noise of a variance added (``noise``). It is compared with least
squares on the same prompts. Errors are divided by the mean square of the noiseless label, so that a model that answers
0 has an error of 1. It writes ``prompt_shift.json`` and a figure; the numbers are also logged, as
``prompt_shift/<shift>/<value>``.

It works with any module that answers prompts (:class:`framework.protocols.AnswersPrompts`) and a datamodule that draws
them (:class:`framework.protocols.HandsOutPrompts`), and does not change the model. The error of a linear attention
layer does not depend on the task scale and (for long prompts) on the query's; for covariates times c its answer grows
as c³ instead of c. Cost: a forward pass over ``prompts`` prompts for each value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.files import write_text
from framework.functional.evaluating import evaluating
from framework.functional.regression_prompts import PromptLaw
from framework.protocols import AnswersPrompts, HandsOutPrompts
from framework.settings import above, at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"scale": "covariates times", "query": "query times", "task": "task times", "noise": "noise added (variance)"}


def shifted(law: PromptLaw, kind: str, value: float) -> PromptLaw:
    """Returns a law with one shift.

    Args:
        law: The training prompts' law.
        kind: ``scale``, ``query``, ``task`` or ``noise``.
        value: The factor, or the added variance.
    """
    if kind == "scale":
        return law.with_changes(scale=law.scale * value)
    if kind == "query":
        query = law.x_cov if law.query_cov is None else law.query_cov
        return law.with_changes(query_cov=value**2 * query)
    if kind == "task":
        return law.with_changes(task_mean=value * law.task_mean, task_cov=value**2 * law.task_cov)
    return law.with_changes(noise=law.noise + value)


@torch.no_grad()
def relative_errors(model: Any, prompts: dict[str, Tensor], noiseless: Tensor, chunk: int) -> dict[str, float]:
    """Returns the errors at the query of ``model`` and of ``least_squares``, over the mean square of noiseless labels.

    Args:
        model: A model with ``answer``; its members' errors are averaged.
        prompts: ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T), the query last.
        noiseless: (B, T), noiseless labels of the queries.
        chunk: Number of prompts processed at a time.
    """
    total = least = 0.0
    for x, y, target in zip(*(v.split(chunk) for v in (prompts["x"], prompts["y"], noiseless)), strict=True):
        total += float((model.answer(x, y) - target).square().mean(0).sum())
        solved = torch.linalg.lstsq(x[:, :-1].double(), y[:, :-1].double()).solution
        least += float(((x[:, -1:].double() @ solved)[:, 0] - target).square().sum())
    size = float(noiseless.square().sum())
    return {"model": total / size, "least_squares": least / size}


def shift_figure(found: dict[str, dict[float, dict[str, float]]]) -> Figure:
    """Draws the relative errors over the size of each shift."""
    figure = new_figure(1, len(found), size=(3.2 * len(found), 3.0))
    for axes, (kind, by_value) in zip(figure.axes, found.items(), strict=True):
        values = sorted(by_value)
        for name, style in (("model", "o-"), ("least_squares", "--")):
            errors = [by_value[value][name] for value in values]
            shown = [error if error > 1e-9 else float("nan") for error in errors]  # an error of 0 cannot be drawn
            axes.plot(values, shown, style, markersize=4, linewidth=1, label=name.replace("_", " "))
        axes.set(xlabel=LABELS[kind], yscale="log")
    figure.axes[0].set_ylabel("error / label's mean square")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


class PromptShift(Observer):
    """Measures and draws the error under shifts at the end of training.

    Args:
        scale: Factors of all covariates.
        query: Factors of the query; not used for covariates that are real rows.
        task: Factors of the tasks.
        noise: Variances of noise that is added to the examples' labels.
        prompts: Number of prompts for each value.
        length: Number of examples in a prompt; by default as in training.
        chunk: Number of prompts processed at a time.

    Raises:
        UserError: a setting is not accepted; at the start, the module does not answer prompts, or the datamodule does
            not draw them.
    """

    def __init__(
        self,
        scale: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
        query: Sequence[float] = (0.5, 1.0, 2.0),
        task: Sequence[float] = (0.5, 1.0, 2.0),
        noise: Sequence[float] = (0.0, 0.5, 1.0),
        prompts: int = 4096,
        length: int | None = None,
        chunk: int = 2048,
    ) -> None:
        self.scale, self.query, self.task, self.noise = list(scale), list(query), list(task), list(noise)
        self.prompts, self.length, self.chunk = prompts, length, chunk
        at_least(1, prompts=prompts, length=length, chunk=chunk)
        above(0, scale=self.scale, query=self.query, task=self.task)
        at_least(0, noise=self.noise)

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that does not answer prompts.

        Raises:
            UserError: it has no ``answer``.
        """
        if not isinstance(model, AnswersPrompts):
            raise UserError(
                f"prompt_shift: {type(model).__name__} does not answer prompts (it lacks the method answer)"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures, writes, logs and draws.

        Raises:
            UserError: the datamodule does not draw prompts.
        """
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, HandsOutPrompts):
            raise UserError(f"prompt_shift: {type(data).__name__} has no regression prompts")
        length = data.length if self.length is None else self.length
        found: dict[str, dict[float, dict[str, float]]] = {}
        with evaluating(pl_module):
            for kind in ("scale", "query", "task", "noise"):
                if kind == "query" and data.law.rows is not None:
                    continue
                by_value = {value: self._at(data, pl_module, length, kind, value) for value in getattr(self, kind)}
                if by_value:
                    found[kind] = by_value
        path = Path(trainer.default_root_dir) / "prompt_shift.json"
        write_text(path, json.dumps({"length": length, "prompts": self.prompts, **found}, indent=2) + "\n")
        named = {f"prompt_shift/{k}/{v:g}": row["model"] for k, rows in found.items() for v, row in rows.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        if found:
            log_figure(trainer, "prompt_shift", shift_figure(found))

    def _at(
        self, data: HandsOutPrompts, model: pl.LightningModule, length: int, kind: str, value: float
    ) -> dict[str, float]:
        law = shifted(data.law, kind, value).with_changes(noisy_query=False)
        prompts = {name: part.to(model.device) for name, part in data.draw(self.prompts, length, law=law).items()}
        return relative_errors(model, prompts, prompts["y"][:, -1], self.chunk)
