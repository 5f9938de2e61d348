"""A language model asked for the similarity of two sentences, with and without a guess of the answer in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.functional import spearman_corrcoef

from framework.errors import UserError
from framework.protocols import RatesInTokens
from modules.finetuning.causal_lm import CausalLM
from modules.in_context.yq_lsa.plots import guesses_figure


class SimilarityLM(CausalLM):
    """Any causal language model of transformers; the answer is the expected level, Σ_l l p(l), over the levels' tokens.

    Batches are those of a datamodule that :class:`~framework.protocols.RatesInTokens`, with ``place``, ``score``,
    ``guess`` and ``kind`` for each prompt. Evaluations log for each kind of guess ``val/error/<kind>``, the mean
    squared error of the answer, ``val/correlation/<kind>``, Spearman's correlation with the scores, and
    ``val/error_of_guess/<kind>``, the error of the guess itself. ``fit`` trains on the answers; ``test`` evaluates the
    model without training. Arguments are those of :class:`~modules.finetuning.causal_lm.CausalLM`.

    Raises:
        UserError: as :class:`~modules.finetuning.causal_lm.CausalLM`; the datamodule has no levels.
    """

    def setup(self, stage: str) -> None:
        """Gets the levels from the datamodule.

        Raises:
            UserError: it has no levels.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, RatesInTokens):
            raise UserError(f"data: {type(data).__name__} has no levels to answer with")
        self.level_tokens, self.guesses = list(data.level_tokens), data.guesses
        self.val_rows, self.test_rows = (CatMetric(nan_strategy="disable") for _ in range(2))  # gathered over ranks

    def levels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the expected level of each prompt, (B,) float32."""
        logits = self(batch["input_ids"], batch["attention_mask"])
        rows = torch.arange(len(logits), device=logits.device)
        chosen = logits[rows, batch["place"]][:, self.level_tokens].float()
        return chosen.softmax(1) @ torch.arange(len(self.level_tokens), device=chosen.device, dtype=chosen.dtype)

    def _evaluate(self, batch: Any, part: str) -> None:
        super()._evaluate(batch, part)
        answer = self.levels(batch)
        rows = torch.stack([answer, batch["score"], batch["guess"], batch["kind"].float()], 1)
        getattr(self, f"{part}_rows").update(rows)

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Returns ``prediction``, ``score``, ``guess`` and ``kind`` of each prompt."""
        return {"prediction": self.levels(batch), **{name: batch[name] for name in ("score", "guess", "kind")}}

    def on_validation_epoch_end(self) -> None:
        """Logs errors by the kind of guess."""
        super().on_validation_epoch_end()
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Logs errors by the kind of guess, and draws."""
        found = self._report("test")
        self.log_figure("guesses", guesses_figure(found))

    def _report(self, part: str) -> dict[str, dict[str, Tensor]]:
        """Returns ``answer``, ``score`` and ``guess`` (n,) by the kind of guess."""
        metric = getattr(self, f"{part}_rows")
        rows = metric.compute()
        metric.reset()
        found = {}
        for number, name in enumerate(self.guesses):
            answer, score, guess = rows[rows[:, 3] == number, :3].T
            if not len(answer):
                continue
            found[name] = {"answer": answer, "score": score, "guess": guess}
            self.log(f"{part}/error/{name}", (answer - score).square().mean())
            if len(answer) > 1:
                self.log(f"{part}/correlation/{name}", spearman_corrcoef(answer, score))
            if not torch.isnan(guess).any():
                self.log(f"{part}/error_of_guess/{name}", (guess - score).square().mean())
        return found
