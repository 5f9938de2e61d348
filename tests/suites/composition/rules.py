"""Which combinations are refused before training, each with its reason; the list is written before any is run.

A combination without a rule must run. A rule may name a setting that allows the combination anyway; then it is run with
that setting too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One reason to refuse.

    Attributes:
        name: One to four words.
        applies: Returns whether the rule applies to an architecture and techniques.
        message: Text that the error message must contain.
        reason: Why the combination is refused, for the page.
        lifted_by: The setting with which the combination runs anyway; empty if there is none.
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
        "Liger turns softmax attention with rotary positions into a recurrence with the same projections. It supports "
        "TransformerLM and transformers' Llama, Mistral, Qwen2 and Qwen3; other models have no such attention.",
    ),
    Rule(
        "no factors",
        lambda architecture, techniques: "rebalance_factors" in techniques and architecture != "factored",
        "has no two factors F, G of a product",
        "The technique rebalances a product F Gᵀ whose two factors the module returns (HasFactors). A layer with one weight "
        "has no second factor.",
    ),
    Rule(
        "batch statistics",
        lambda architecture, techniques: "dp_sgd" in techniques and architecture in ("mlp", "resnet"),
        "dp_sgd and batch norm cannot be combined",
        "Batch norm makes each sample's output depend on the whole batch, so a sample's gradient is not its own, and the "
        "statistics would be released without noise. Group norm and layer norm have neither problem.",
    ),
    Rule(
        "templates",
        lambda architecture, techniques: (
            "mixture_growth" in techniques and bool({"learngene", "logah_init"} & set(techniques))
        ),
        "needs the model's plain layers at the start, and mixture_growth has replaced them by then",
        "A learngene, or what a hypernetwork predicts, is written into plain layers before training, but MixtureGrowth "
        "replaces these layers by templates, with their own values, before that.",
    ),
    Rule(
        "two predictions",
        lambda architecture, techniques: {"learngene", "logah_init"} <= set(techniques),
        "both write all weights of the network",
        "The second would overwrite the first one.",
    ),
    Rule(
        "no family",
        lambda architecture, techniques: (
            "logah_init" in techniques and architecture in ("sine", "resnet", "s4d", "transformer")
        ),
        "holds no network of a known family",
        "A hypernetwork predicts weights for networks like those of its training: perceptrons, vision transformers or "
        "GPT-2.",
    ),
    Rule(
        "no vision transformer",
        lambda architecture, techniques: "learngene" in techniques and architecture != "vit",
        "one vision transformer (a module with patch_embed and blocks) is needed",
        "A learngene contains the tensors of a vision transformer in timm's layout: its blocks, embeddings and head.",
    ),
    Rule(
        "no linear head",
        lambda architecture, techniques: (
            bool({"lp_ft", "feature_drift", "ntk_split"} & set(techniques)) and architecture in ("gpt2", "factored")
        ),
        "no linear head",
        "The techniques probe V of f(x) = V φ(x) + b, which must be a linear layer of its own. In gpt2 the output layer "
        "has another name and shares its weight with the embedding; in the factored model it is a product of factors.",
    ),
    Rule(
        "more than a head",
        lambda architecture, techniques: (
            bool({"feature_drift", "ntk_split"} & set(techniques)) and architecture == "transformer"
        ),
        "is not that of net.decoder.head",
        "Features and kernels are those of f(x) = V φ(x) + b. This model uses some of the logits of the last position of a "
        "sequence, so an example has no single φ. Its head can still be trained first (lp_ft with probe_epochs).",
    ),
    Rule(
        "looks tokens up",
        lambda architecture, techniques: "linear_scope" in techniques and architecture in ("gpt2", "transformer"),
        "the output has no linear path to the input",
        "A linear interpreter says what each number of the input contributes. These models turn their input into tokens, "
        "and look those up in a table: no number of it is multiplied by anything.",
    ),
    Rule(
        "nothing to perturb",
        lambda architecture, techniques: "robustness" in techniques and architecture in ("gpt2", "transformer"),
        "the outputs cannot be differentiated by the inputs",
        "An attack follows the gradient of the loss by the input. These models turn their input into tokens, and look "
        "those up in a table, so that there is no gradient.",
    ),
    Rule(
        "no interval bounds",
        lambda architecture, techniques: (
            bool({"fast_regularizer", "propagation_tightness"} & set(techniques))
            and architecture in ("sine", "vit", "gpt2", "s4d", "transformer")
        ),
        "has no interval bounds here",
        "Boxes are propagated through linear and convolutional layers, batch norm, ReLU, pooling and sums. These models "
        "have sines, attention, layer norm or tables, for which the technique has no rule.",
    ),
    Rule(
        "members choose channels",
        lambda architecture, techniques: (
            bool({"fast_regularizer", "propagation_tightness"} & set(techniques)) and "mixture_growth" in techniques
        ),
        "has no interval bounds here",
        "A layer of MixtureGrowth looks at the width of its input to choose the channels of the member that computes, so "
        "the graph of the network along which boxes are propagated is not fixed.",
    ),
    Rule(
        "ratios over the batch",
        lambda architecture, techniques: {"fast_regularizer", "dp_sgd"} <= set(techniques),
        "one sample's part of the loss depends on the other samples of the batch",
        "The regulariser compares means over the whole batch of bounds, so that each sample changes the gradient of the "
        "others, and clipping a sample's gradient does not bound what the sample changes. Its first step finds that out.",
    ),
    Rule(
        "two draws",
        lambda architecture, techniques: {"gg_init", "ibp_init"} <= set(techniques),
        "both draw the weights afresh",
        "The second of two initialisations would overwrite the first one.",
    ),
    Rule(
        "all layers kept",
        lambda architecture, techniques: (
            architecture in ("mlp", "sine", "factored") and {"ibp_init", "winner"} <= set(techniques)
        ),
        "no layer is left to draw",
        "ibp_init keeps the last layer and does not draw WINNER's two layers, and these models have no other layers.",
    ),
    Rule(
        "nothing left to draw",
        lambda architecture, techniques: architecture == "factored" and {"gg_init", "winner"} <= set(techniques),
        "gg_init.exclude leaves nothing of include",
        "gg_init does not draw WINNER's two layers, and this model has no other layers: its head is a product of factors.",
    ),
    Rule(
        "retention",
        lambda architecture, techniques: {"warm_start", "kappa_tune"} <= set(techniques),
        "which would rank weights that are no longer the pretrained ones",
        "KappaTune keeps what a model has learnt: it trains only the tensors with the lowest condition number κ. Shrinking "
        "and perturbing the weights before that destroys what should be kept (arXiv 2506.16289, retention). Shrinking "
        "does not change κ (κ(λW) = κ(W)), but noise lowers it, so the ranking no longer describes the pretrained "
        "weights either.",
        "techniques.warm_start.force",
    ),
)


def refusal(architecture: str, techniques: tuple[str, ...]) -> Rule | None:
    """Returns the first rule that applies, or ``None``."""
    return next((rule for rule in RULES if rule.applies(architecture, techniques)), None)
