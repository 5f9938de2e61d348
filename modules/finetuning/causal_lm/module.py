"""A causal language model of a transformers folder, or of fresh weights."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.data.loader import ExactLoader
from framework.errors import UserError
from framework.module import OptimizerConfig, ScheduleConfig, as_dataclass
from framework.plain import plain_data
from framework.readers.transformers_folder import LOCAL
from framework.settings import exactly_one, one_of
from modules.language_model import Batch, Generation, LanguageModel, Perplexity, token_losses

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def fresh_config(description: Mapping[str, Any]) -> PretrainedConfig:
    """Returns a model's config from plain data.

    Args:
        description: ``model_type`` and values of that type's config; or all that ``config.json`` holds.

    Raises:
        UserError: there is no such type, or it knows no such key.
    """
    from transformers import AutoConfig, PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = dict(description)
    kind = values.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(str(kind), list(CONFIG_MAPPING), n=5, cutoff=0.0)
        raise UserError(f"config.model_type: {kind!r} is not a type of transformers; nearest: {', '.join(near)}")
    cls = CONFIG_MAPPING[kind]
    if "transformers_version" not in values:  # typed by a person, not written by transformers
        known = {*cls().to_dict(), *PretrainedConfig().to_dict(), *cls.attribute_map}
        for key in values:
            if key not in known:
                near = get_close_matches(key, sorted(known), n=5, cutoff=0.0)
                raise UserError(f"config.{key}: {kind} has no such key; nearest: {', '.join(near)}")
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as error:  # transformers checks with errors of several types
        raise UserError(f"config: {kind} refused its values: {error}") from error


def check_folder(path: str | Path) -> Path:
    """Refuses a folder that lacks a file of the format of transformers.

    Raises:
        UserError: naming the first missing file.
    """
    folder = Path(path).expanduser()
    wanted = f"expected a local folder in the format of transformers: config.json, and one of {', '.join(WEIGHTS)}"
    if not folder.is_dir():
        raise UserError(f"path: {folder} not found; nothing is downloaded; {wanted}")
    if not (folder / "config.json").is_file():
        raise UserError(f"path: {folder / 'config.json'} not found; {wanted}")
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"path: {folder / WEIGHTS[0]} not found; {wanted}")
    if found.suffix == ".json":
        try:
            shards = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"path: {found} is not an index of weights ({error})") from error
        for shard in shards:
            if Path(shard).name != shard:
                raise UserError(f"path: {found} names {shard!r}, which is not a file in its folder")
            if not (folder / shard).is_file():
                raise UserError(f"path: {folder / shard} not found; {found.name} names it")
    return folder


def load_pretrained(
    path: str | Path, attn_implementation: Attention = "sdpa", dtype: Dtype = "float32"
) -> PreTrainedModel:
    """Loads a model from a local folder; every one of its weights must be there.

    Args:
        path: Local folder in the format of transformers.
        attn_implementation: As transformers calls it, such as ``sdpa`` or ``eager``.
        dtype: Of the weights, a type of torch or ``auto`` for the file's.

    Raises:
        UserError: a file is missing or broken, or weights are missing.
    """
    folder = check_folder(path)
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    wanted: dict[str, Any] = {"attn_implementation": attn_implementation, "dtype": _dtype(dtype), **LOCAL}
    try:
        with quiet_loading():
            model, said = auto.from_pretrained(str(folder), output_loading_info=True, **wanted)
    except Exception as error:  # transformers, safetensors and json raise types of their own
        raise UserError(f"path: {folder} cannot be loaded: {error}") from error
    if missing := sorted(said["missing_keys"]):
        raise UserError(f"path: the weights in {folder} lack {', '.join(missing[:5])} and {len(missing)} in all")
    _choose_experts(model)
    return model


def save_checked(model: PreTrainedModel) -> None:
    """Lets ``model.save_pretrained`` refuse to write weights that its config does not describe.

    Techniques change a model's structure; transformers would write such weights without a word, and when it reads them
    fill what it misses with random numbers.
    """
    vars(model)["save_pretrained"] = partial(_save_pretrained, model)


def _save_pretrained(model: Any, *arguments: Any, **named: Any) -> None:
    """Of a model of transformers, with a check.

    Raises:
        UserError: its weights are not those of a plain model of its config.
    """
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    own, theirs = ({name: value.shape for name, value in m.state_dict().items()} for m in (model, plain))
    spare = {name for name in theirs.keys() - own.keys() if name.startswith("pooler.")}  # an encoder's, never used
    if changed := sorted({name for name, _ in own.items() ^ theirs.items()} - spare):
        raise UserError(
            f"save_pretrained: {changed[0]} and {len(changed) - 1} more tensors differ from a plain "
            f"{type(model).__name__}; call framework.fold(module) first"
        )
    type(model).save_pretrained(model, *arguments, **named)


def _choose_experts(model: Any) -> None:
    """Computes experts one after the other if torch cannot multiply all of them together (older versions on a CPU)."""
    if torch.cuda.is_available() or not getattr(model, "_can_set_experts_implementation", lambda: False)():
        return
    try:
        ends = torch.tensor([8], dtype=torch.int32, device="cpu")
        torch._grouped_mm(torch.zeros(8, 8, device="cpu"), torch.zeros(1, 8, 8, device="cpu"), offs=ends)
    except (AttributeError, NotImplementedError, RuntimeError):
        model.set_experts_implementation("eager")


def _dtype(name: str) -> Any:
    return name if name == "auto" else getattr(torch, name)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Leaves out transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


GENERATION = Generation(max_new_tokens=32)
POSITIONS = ("wpe", "embed_positions", "position_embeddings")  # tables of learned positions


class CausalLM(LanguageModel):
    """A causal language model of transformers.

    Batches are mappings with ``input_ids`` int64 ``(B, T)`` and, where sequences are padded, ``attention_mask`` and
    ``labels`` (-100 at the padding). Logs ``train/loss``, ``val/`` and ``test/`` with ``loss`` and ``perplexity``,
    and ``val/retention_perplexity`` and ``val/forgetting`` where the datamodule has a text for it.

    Args:
        path: Local folder of a pretrained model.
        config: Instead of it, a fresh model's config: ``model_type`` and its values.
        attn_implementation: ``sdpa``, ``eager``, or another of transformers that is installed.
        dtype: Type of the weights: ``float32``, ``bfloat16``, ``float16``, or ``auto`` as in the folder.
        gradient_checkpointing: Whether activations are computed again in the backward pass, to save memory.
        generation: How ``predict`` continues sequences.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Attributes:
        lm: The model of transformers.

    Raises:
        UserError: a setting is not accepted, or a file is missing (in the constructor); the datamodule's tokens are not
            the model's (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        config: dict[str, Any] | None = None,
        attn_implementation: Attention = "sdpa",
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        generation: Generation = GENERATION,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(1, as_dataclass(Generation, generation, GENERATION), optimizer, schedule)
        self.save_hyperparameters()
        exactly_one(path=path, config=config)
        one_of(get_args(Dtype), dtype=dtype)
        one_of(get_args(Attention), attn_implementation=attn_implementation)
        self.source = path
        if path is not None:
            self.lm = load_pretrained(path, attn_implementation, dtype)
        else:
            self.lm = self._fresh(config or {}, attn_implementation, dtype)
        self.lm.train()
        save_checked(self.lm)
        self.vocab_size = self.lm.config.vocab_size
        self._balance: Tensor | None = None
        if gradient_checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it has another name in transformers 6
                self.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.retention_perplexity = Perplexity()
        self.retention_start: float | None = None

    @staticmethod
    def _fresh(config: Mapping[str, Any], attn_implementation: Attention, dtype: Dtype) -> PreTrainedModel:
        described = fresh_config(config)
        from transformers import AutoModelForCausalLM

        wanted = None if dtype == "auto" else _dtype(dtype)
        try:
            model = AutoModelForCausalLM.from_config(described, attn_implementation=attn_implementation, dtype=wanted)
        except Exception as error:  # an inconsistent config shows itself in the model's constructor
            raise UserError(f"config: {described.model_type} cannot be built: {error}") from error
        _choose_experts(model)
        return model

    def setup(self, stage: str) -> None:
        """Compares the datamodule's tokens, and its length with learned positions, with the model's.

        Raises:
            UserError: the model has too few of either.
        """
        super().setup(stage)
        length = getattr(getattr(self.trainer, "datamodule", None), "length", None)
        for name, table in self.lm.named_modules():
            if isinstance(table, nn.Embedding) and name.endswith(POSITIONS) and (length or 1) > table.num_embeddings:
                raise UserError(
                    f"model: {table.num_embeddings} positions, but the data has windows of data.length = {length}; "
                    "set config.n_positions (or as the model calls it) to as many, or data.length to fewer"
                )

    def _more(self) -> str:
        return "set config.vocab_size to as many, or give the datamodule the model's tokenizer"

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Maps tokens ``(B, T)`` to logits ``(B, T, vocabulary)`` of each next token."""
        output = self.lm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        balance = getattr(output, "aux_loss", None) if self.training else None
        self._balance = None if balance is None else self.lm.config.router_aux_loss_coef * balance
        return output.logits

    def auxiliary_loss(self) -> Tensor | None:
        """Returns the balancing loss of a mixture of experts that asks for it."""
        return self._balance

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of the tokens that follow ``state``, a cache of transformers, and the cache after them."""
        output = self.lm(input_ids=input_ids, past_key_values=state, use_cache=True)
        return output.logits, output.past_key_values

    def _evaluate(self, batch: Batch, part: str) -> None:
        if part == "retention":
            logits = self(batch["input_ids"], batch.get("attention_mask"))
            self.retention_perplexity.update(*token_losses(logits, batch))
        else:
            super()._evaluate(batch, part)

    def on_train_start(self) -> None:
        """Measures the perplexity on the retention text before anything is learnt."""
        make = getattr(getattr(self.trainer, "datamodule", None), "retention_dataloader", None)
        loader = make() if callable(make) else None
        if loader is None or self.trainer.global_step or self.retention_start is not None:
            return
        limit = self.trainer.limit_val_batches
        batches = limit if isinstance(limit, int) else max(1, int(limit * len(loader)))
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        with torch.no_grad():
            for index, batch in enumerate(loader):
                if index >= batches or (isinstance(loader, ExactLoader) and loader.fills_up(index)):
                    break
                self._evaluate(self.transfer_batch_to_device(dict(batch), self.device, 1), "retention")
        for module, mode in modes:
            module.training = mode
        self.retention_start = float(self.retention_perplexity.compute())
        self.retention_perplexity.reset()
        for logger in self.trainer.loggers:
            logger.log_metrics({"val/retention_perplexity": self.retention_start}, step=0)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss and perplexity of a batch; the second loader's is the retention text."""
        self._evaluate(batch, "retention" if dataloader_idx else "val")

    def on_validation_epoch_end(self) -> None:
        """Logs what is kept of the retention text."""
        if not self.retention_perplexity.update_called:
            return
        now = self.retention_perplexity.compute()
        self.retention_perplexity.reset()
        self.log("val/retention_perplexity", now, prog_bar=True)
        if self.retention_start is not None:
            self.log("val/forgetting", now - self.retention_start)

    @torch.no_grad()
    def generate(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Continues prompts ``(B, P)`` by ``generation.max_new_tokens`` tokens; returns both parts.

        With a temperature above 0 it draws from torch's global generator.
        """
        end = self.lm.config.eos_token_id
        end = end[0] if isinstance(end, list | tuple) else end
        settings: dict[str, Any] = {"do_sample": False}
        if self.generation.temperature > 0:
            settings = {"do_sample": True, "temperature": self.generation.temperature, "top_k": 0}
        lm: Any = self.lm
        tokens = lm.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=self.generation.max_new_tokens,
            pad_token_id=end if end is not None else 0,
            **settings,
        )
        added = tokens[:, prompt.shape[1] :]
        return prompt, F.pad(
            added, (0, self.generation.max_new_tokens - added.shape[1]), value=end if end is not None else 0
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes the model as transformers reads it, with the tokenizer's files where it was loaded with them.

        Args:
            folder: Where to; made if need be.

        Returns:
            The folder.

        Raises:
            UserError: the model has another structure than its config says; ``framework.fold`` makes it plain.
        """
        folder = Path(folder).expanduser()
        self.lm.save_pretrained(folder)
        for name in _TOKENIZER:
            if self.source is not None and (file := Path(self.source).expanduser() / name).is_file():
                shutil.copyfile(file, folder / name)
        return folder

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the model's config instead of its folder: the checkpoint opens where that is not."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["retention_start"] = self.retention_start
        if self.CHECKPOINT_HYPER_PARAMS_KEY in checkpoint:
            described = json.loads(self.lm.config.to_json_string(use_diff=False))
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY].update(path=None, config=plain_data(described))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the perplexity of the start."""
        self.retention_start = checkpoint.get("retention_start")


__all__ = ["CausalLM", "check_folder", "fresh_config", "load_pretrained", "save_checked"]
