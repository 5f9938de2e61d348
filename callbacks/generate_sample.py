"""Generate sample: shows after each validation how a language model continues a text.

Each time one line ``{"step": …, "prompt": …, "continuation": …}`` is added to ``samples.jsonl`` in the run folder, and
at the end of training the last one is printed. The prompt is ``prompt``, or the first tokens of the validation data.

Works on any module that continues tokens (:class:`framework.protocols.Generates`) with a datamodule that turns tokens
into text (``decode``). Changes nothing in the model; the random numbers that a temperature asks for are drawn from a
generator state of its own. Cost: ``max_new_tokens`` decoding steps each time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.files import write_text
from framework.protocols import Generates
from framework.settings import at_least, not_empty


class GenerateSample(Observer):
    """Writes what a language model generates after each validation.

    Args:
        prompt: A text of bytes that it starts from; by default the start of the validation data.
        prompt_length: Tokens taken of the validation data.
        every_n_epochs: After every so many epochs.
        seed: Of the random numbers, the same each time.

    Raises:
        UserError: a setting is not accepted; at the start, the module does not generate.
    """

    def __init__(
        self, prompt: str | None = None, prompt_length: int = 32, every_n_epochs: int = 1, seed: int = 0
    ) -> None:
        not_empty(prompt=prompt)
        at_least(1, prompt_length=prompt_length, every_n_epochs=every_n_epochs)
        self.prompt, self.prompt_length, self.every_n_epochs, self.seed = prompt, prompt_length, every_n_epochs, seed
        self._last: dict[str, Any] | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that does not generate.

        Raises:
            UserError: it has no ``generate``.
        """
        if not isinstance(model, Generates):
            raise UserError(f"generate_sample: {type(model).__name__} does not generate (it lacks the method generate)")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generates, and adds the line."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.sanity_checking or trainer.fast_dev_run or not due or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, Generates)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            prompt, continuation = pl_module.generate(self._start(trainer).to(pl_module.device))
        decode = getattr(getattr(trainer, "datamodule", None), "decode", None) or (lambda tokens: tokens)
        told = {"prompt": decode(prompt[0].tolist()), "continuation": decode(continuation[0].tolist())}
        self._last = {"step": trainer.global_step, **told}
        path = Path(trainer.default_root_dir) / "samples.jsonl"
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        rows = [row for row in rows if row["step"] < trainer.global_step]  # a resumed run writes the rest anew
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, self._last]]
        write_text(path, "".join(lines))

    def _start(self, trainer: pl.Trainer) -> Tensor:
        if self.prompt is not None:
            return torch.tensor([list(self.prompt.encode())])
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return torch.as_tensor(data.val_set[0]["input_ids"])[None, : self.prompt_length]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the last one."""
        if self._last is not None:
            rank_zero_info(f"{self._last['prompt']}|{self._last['continuation']}")
