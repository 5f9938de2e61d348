"""Causal language modelling with any decoder of transformers, pretrained from a local folder or fresh from its config.

Paper: none; it is the base model for techniques for language models.

What it is for: fine-tuning (or, at a small size, training) a decoder-only language model with techniques: adapters, a
choice of trained weights, an initialisation. ``path`` names a folder in the format of transformers (``config.json``,
``model.safetensors`` or its shards); ``config`` describes a fresh model (``{model_type: gpt2, n_layer: 4, …}``).
Nothing is ever downloaded.

The loss is the mean over predicted tokens of −ln p(x_t | x_<t); a mixture of experts that asks for it
(``output_router_logits``) adds its balancing loss in training. ``perplexity`` is exp of the mean over all tokens of an
evaluation, whatever the batches. With a datamodule that has a second text (``retention``), the perplexity on it is
logged at the start and at each validation as ``val/retention_perplexity``, and what has been added since the start as
``val/forgetting`` (Ludwig 2025, arXiv 2506.16289, measures forgetting so).

Expected numbers: see the comments of the configs (``finetuning/causal_lm*.yaml``).

Cost: that of the model. A checkpoint holds all weights and the model's config, so it opens without the folder.

Composes with every technique that works on linear layers, embeddings or GPT-2's Conv1D. ``framework.fold(module)``,
then ``module.save_pretrained(folder)`` writes what transformers reads.

Limits: one device or DDP; no quantised training; generation re-reads the prompt of fixed length.
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
