"""Linear probing, then fine-tuning: pretrained features, a fitted head, and how far fine-tuning moves them.

Paper: Tomihari, Sato, 2024, "Understanding Linear Probing then Fine-tuning Language Models from NTK Perspective",
NeurIPS, arXiv 2405.16747.

What it is for: fine-tuning a pretrained model f(x) = V φ(x) + b on few labels with little change of its features, which
keeps them useful for other data, and analysing why this works. The technique ``lp_ft`` fits the head, before training
or in epochs of its own; ``ntk_split`` splits the tangent kernel where fine-tuning starts, P + F (Prop. 4.1);
``feature_drift`` measures the change of φ and ‖V‖; ``temperature_scaling`` calibrates the outputs.

- ``lp_ft.yaml``: a perceptron 64-128-128-64 pretrained on the digits 5-9 of scikit-learn learns 0-4 from 150 labels
  (:class:`TransferClassifier`), and is tested on the others and on a shifted, noisy copy.
- ``lp_ft_text.yaml``, ``lp_ft_paper.yaml``: an encoder of transformers from a local folder, dropout, a linear head on
  the first token or the mean (:class:`TextClassifier`): MiniLM on rated sentences; RoBERTa-base as in the paper.
- :class:`LinearToy`: f(x) = V B x + b, for which the theory is exact (Cor. 4.3, Prop. 4.4; in the tests).

A step on a sum of losses changes the logits by η Σ_i (P + F) δ_i, F ∝ ‖V‖², and the features by η Σ_i J Jᵀ Vᵀ δ_i,
∝ ‖V‖; δ_i = e_{y_i} − softmax(f(x_i)). After probing V is large and δ small, so the logits reach their targets with
little change of φ. With LoRA P is the same and F = ⟨A x, A x'⟩ V Vᵀ times (α/r)².

Expected (``reproduce lp_ft``, 5 seeds): ‖V‖ 1.3 random, 39 to 109 probed, and unchanged by fine-tuning; ‖φ − φ₀‖ 15 to
20 for FT at 1e-3, 3 to 7 for LP-FT at 1e-3, 0.15 to 0.65 at 1e-4; FT ratio 0.07 to 0.29 random, 0.9998 and more
probed; rank F 750 and 600, rank P 325; LP-FT is 3 points better on the test part (5 of 5 seeds at the same rate).
Different from the paper's language models: on the shifted copy LP-FT is better in only 2 of 5 seeds at the rate 1e-4;
FT is already calibrated here (0.029), so a temperature from 100 examples does not help it, while LP-FT gains 0.013; and
the norm of a head trained alone exceeds that of a head trained with its features only after a long time (100 epochs).

Cost: seconds for a run on digits, mostly for ``ntk_split``; for MiniLM about a minute for an epoch of 300 sentences and
its tests on a busy CPU core. Composes with every technique that works on linear layers; ``lora`` for LP-LoRA. Limits:
class labels only; kernels need each example separately; the paper's t-SNE figures are not included.
"""

from modules.finetuning.lp_ft.module import TransferClassifier
from modules.finetuning.lp_ft.network import LinearToy, TransferMLP
from modules.finetuning.lp_ft.text import TextClassifier

__all__ = ["LinearToy", "TextClassifier", "TransferClassifier", "TransferMLP"]
