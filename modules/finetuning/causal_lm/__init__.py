"""Causal language modelling with any decoder of transformers, pretrained (from a local folder) or with random weights.

Paper: none; it is the base model for techniques for language models.

What it is for: fine-tuning a decoder-only language model (or training a small one from scratch) with techniques:
adapters, a choice of trained weights, an initialisation. ``path`` names a folder in the format of transformers
(``config.json``, ``model.safetensors`` or its shards); ``config`` describes a model with random weights (``{model_type:
gpt2, n_layer: 4, …}``). Nothing is ever downloaded.

The loss is the mean over predicted tokens of −ln p(x_t | x_<t); a mixture of experts with ``output_router_logits`` adds
its balancing loss in training. ``perplexity`` is exp of the mean over all tokens of an evaluation and does not depend
on the batches. With a datamodule that has a second text (``retention``), the perplexity on it is logged at the start
and at each validation as ``val/retention_perplexity``, and its increase since the start as ``val/forgetting`` (the
measure of Ludwig 2025, arXiv 2506.16289).

Expected numbers: see the comments of the configs (``finetuning/causal_lm*.yaml``).

Cost: that of the model. A checkpoint contains all weights and the model's config, so it can be opened without the
folder.

Composes with every technique that works on linear layers, embeddings or GPT-2's Conv1D. ``framework.fold(module)`` and
then ``module.save_pretrained(folder)`` write a folder that transformers can load.

Limits: one device or DDP; no quantised training; generation starts from prompts of one fixed length.
"""

from modules.finetuning.causal_lm.module import (
    Attention,
    CausalLM,
    check_folder,
    fresh_config,
    load_pretrained,
    quiet_loading,
    save_checked,
)

__all__ = ["Attention", "CausalLM", "check_folder", "fresh_config", "load_pretrained", "quiet_loading", "save_checked"]
