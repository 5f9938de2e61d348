"""A classifier of texts: an encoder of transformers, pooled, with a linear head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.module import OptimizerConfig, ScheduleConfig
from framework.plain import plain_data
from framework.readers.transformers_folder import LOCAL
from framework.settings import between, exactly_one, one_of
from modules.finetuning.causal_lm import Attention, check_folder, fresh_config, quiet_loading, save_checked
from modules.finetuning.lp_ft.module import Transferred

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["first", "mean"]


class TextNetwork(nn.Module):
    """φ, the encoder's last hidden state at the first token or its mean over tokens; dropout; the linear head V.

    There is no tanh layer before the head, unlike in transformers' heads for RoBERTa.

    Args:
        encoder: An encoder of transformers.
        classes: C.
        pooling: ``first`` or ``mean``.
        dropout: Probability of dropout before the head.
    """

    def __init__(self, encoder: PreTrainedModel, classes: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.pad = encoder.config.pad_token_id
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def get_classifier(self) -> nn.Module:
        """Returns the linear head."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, T), padded with the encoder's padding, to logits (B, C)."""
        mask = x != self.pad
        hidden = self.encoder(input_ids=x, attention_mask=self._attention(mask)).last_hidden_state
        if self.pooling == "first":
            features = hidden[:, 0]
        else:
            weight = mask[..., None].to(hidden.dtype)
            features = (hidden * weight).sum(1) / weight.sum(1)
        return self.head(self.dropout(features))

    def _attention(self, mask: Tensor) -> Tensor:
        """Returns what is added to the scores (B, 1, 1, T), or the mask itself if the attention expects that.

        transformers branches on the values of a two-dimensional mask, which vmap (``ntk_split``) does not support.
        """
        if self.encoder.config._attn_implementation not in ("sdpa", "eager"):
            return mask.long()
        scores = torch.zeros_like(mask, dtype=self.head.weight.dtype)
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)[:, None, None]


class TextClassifier(Transferred):
    """Classifies texts with an encoder of transformers, pretrained (from a local folder) or with random weights.

    Batches are ``(x, y)``: ``x`` tokens int64 (B, T), padded with the encoder's padding token, ``y`` int64 (B,). Logs
    ``train/loss``, ``train/accuracy``, ``val/`` and ``test/`` the same, and ``test/<name>_…`` for further test sets.

    Args:
        path: Local folder of a pretrained encoder (``config.json``, ``model.safetensors``).
        config: Instead of ``path``, the config of an encoder with random weights: ``model_type`` and its values.
        num_classes: C.
        pooling: ``first``, the hidden state of the first token, or ``mean``, over all tokens.
        head_dropout: Probability of dropout before the head.
        attn_implementation: Attention implementation by its name in transformers.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted, or a file is missing or broken (in the constructor); the datamodule's
            tokens do not fit the encoder (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        config: dict[str, Any] | None = None,
        num_classes: int = 2,
        pooling: Pooling = "first",
        head_dropout: float = 0.1,
        attn_implementation: Attention = "sdpa",
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, optimizer, schedule)
        self.save_hyperparameters()
        exactly_one(path=path, config=config)
        one_of(get_args(Pooling), pooling=pooling)
        between(0, 1, "[)", head_dropout=head_dropout)
        one_of(get_args(Attention), attn_implementation=attn_implementation)
        encoder = load_encoder(path, attn_implementation) if path else fresh_encoder(config or {}, attn_implementation)
        encoder.train()
        save_checked(encoder)
        self.net = TextNetwork(encoder, num_classes, pooling, head_dropout)

    def setup(self, stage: str) -> None:
        """Compares the datamodule's classes and tokens with the model's.

        Raises:
            UserError: the classes differ, the data has more tokens, or another padding token.
        """
        super().setup(stage)
        data, encoder = getattr(self.trainer, "datamodule", None), self.net.get_submodule("encoder")
        config: Any = encoder.config
        found, pad = getattr(data, "vocab_size", None), getattr(data, "pad", None)
        if found is not None and found > config.vocab_size:
            raise UserError(f"data.tokenizer: it has {found} tokens, the encoder {config.vocab_size}; give its folder")
        if pad is not None and pad != config.pad_token_id:
            raise UserError(
                f"data.tokenizer: it pads with {pad}, the encoder with {config.pad_token_id}; give its folder"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the encoder's config instead of its folder, so that the checkpoint opens without the folder."""
        super().on_save_checkpoint(checkpoint)
        if self.CHECKPOINT_HYPER_PARAMS_KEY in checkpoint:
            config: Any = self.net.get_submodule("encoder").config
            described = plain_data(json.loads(config.to_json_string(use_diff=False)))
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY].update(path=None, config=described)


def load_encoder(path: str | Path, attn_implementation: Attention = "sdpa") -> PreTrainedModel:
    """Loads an encoder from a local folder; nothing is downloaded.

    Raises:
        UserError: a file is missing or broken, or weights other than a pooling layer's are missing.
    """
    folder = check_folder(path)
    from transformers import AutoModel

    options = {"attn_implementation": attn_implementation, "output_loading_info": True, **LOCAL}
    auto: Any = AutoModel
    try:
        with quiet_loading():
            model, said = auto.from_pretrained(str(folder), **options, dtype=torch.float32)
    except Exception as error:  # transformers, safetensors and json raise many types
        raise UserError(f"path: {folder} cannot be loaded: {error}") from error
    if missing := sorted(name for name in said["missing_keys"] if not name.startswith("pooler.")):
        raise UserError(f"path: the weights in {folder} lack {', '.join(missing[:5])} and {len(missing)} in all")
    return without_pooler(model)


def fresh_encoder(config: dict[str, Any], attn_implementation: Attention = "sdpa") -> PreTrainedModel:
    """Returns an encoder with random weights.

    Raises:
        UserError: the config is not accepted.
    """
    described = fresh_config(config)
    from transformers import AutoModel

    try:
        return without_pooler(AutoModel.from_config(described, attn_implementation=attn_implementation))
    except Exception as error:  # the model's constructor raises errors for an inconsistent config
        raise UserError(f"config: {described.model_type} cannot be built: {error}") from error


def without_pooler(model: Any) -> Any:
    """Removes the layer that transformers adds on the first token, which is not used here."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
