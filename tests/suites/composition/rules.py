"""Which combinations are refused before training, written down before any is run, each with its reason.

Whatever no rule names must run. A rule may be lifted by a setting that says that one knows; then the combination is run
with it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One reason to refuse.

    Attributes:
        name: In a word or two.
        applies: Whether it holds for an architecture and techniques.
        message: What the refusal must say.
        reason: Where it comes from.
        lifted_by: The setting with which the combination runs all the same; empty if it never does.
    """

    name: str
    applies: Callable[[str, tuple[str, ...]], bool]
    message: str
    reason: str
    lifted_by: str = ""


RULES = (
    Rule(
        "no attention",
        lambda architecture, techniques: "liger" in techniques and architecture != "transformer",
        "has no attention that can be linearised",
        "Liger makes a recurrence out of the projections of a softmax attention with rotary positions: those of "
        "TransformerLM and of transformers' Llama, Mistral, Qwen2 and Qwen3. Other models have nothing to linearise.",
    ),
    Rule(
        "no factors",
        lambda architecture, techniques: "rebalance_factors" in techniques and architecture != "factored",
        "has no two factors F, G of a product",
        "What is rebalanced is a product F Gᵀ whose two factors the module names (HasFactors); a layer with one weight has "
        "nothing to balance it against.",
    ),
    Rule(
        "templates",
        lambda architecture, techniques: {"learngene", "mixture_growth"} <= set(techniques),
        "learngene needs the model's plain layers at the start, and mixture_growth has replaced them by then",
        "A learngene is written into plain layers before training; MixtureGrowth makes templates of them before that, "
        "with values of their own.",
    ),
    Rule(
        "no vision transformer",
        lambda architecture, techniques: "learngene" in techniques and architecture != "vit",
        "one vision transformer (a module with patch_embed and blocks) is needed",
        "A learngene holds the tensors of a vision transformer's blocks in timm's layout, its embeddings and its head.",
    ),
    Rule(
        "no linear head",
        lambda architecture, techniques: (
            bool({"lp_ft", "feature_drift", "ntk_split"} & set(techniques)) and architecture in ("gpt2", "factored")
        ),
        "no linear head",
        "What is probed is V of f(x) = V φ(x) + b, a linear layer of its own. These two read classes off an output layer "
        "that is called otherwise and is the embedding too, and off a product of factors.",
    ),
    Rule(
        "more than a head",
        lambda architecture, techniques: (
            bool({"feature_drift", "ntk_split"} & set(techniques)) and architecture == "transformer"
        ),
        "is not that of net.decoder.head",
        "Features and kernels are of f(x) = V φ(x) + b. This model takes some of the logits of the last of many places; "
        "its head can be trained first (lp_ft with probe_epochs), but an example has no one φ.",
    ),
    Rule(
        "nothing left to draw",
        lambda architecture, techniques: architecture == "factored" and {"gg_init", "winner"} <= set(techniques),
        "gg_init.exclude leaves nothing of include",
        "WINNER's two layers are not drawn again, and this model has no others: its head is a product of factors.",
    ),
    Rule(
        "retention",
        lambda architecture, techniques: {"warm_start", "kappa_tune"} <= set(techniques),
        "which would rank weights that are no longer the pretrained ones",
        "KappaTune keeps what a model knows by training only the tensors in which it is spread most evenly; shrinking "
        "and perturbing these same tensors wipes out what was to be kept (arXiv 2506.16289, retention). κ itself does "
        "not see the shrinking (κ(λW) = κ(W)) but falls with the noise, so the ranking is no longer of the model's "
        "knowledge either.",
        "techniques.warm_start.force",
    ),
)


def refusal(architecture: str, techniques: tuple[str, ...]) -> Rule | None:
    """The first rule that holds, if one does."""
    return next((rule for rule in RULES if rule.applies(architecture, techniques)), None)
