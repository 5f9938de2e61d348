"""Image classification with any backbone of timm.

Paper: none; the common ground on which techniques are tried.

What it is for: a plain, well-known training of an image classifier, on which any technique can be put and compared.
The backbone is a model of timm by its name (about a thousand: ViT, ResNet, ConvNeXt, …) with any of its constructor's
arguments, or ``mlp``. Nothing is downloaded: weights come from a local file or start random.

The loss is cross-entropy, with label smoothing, or with soft targets from mixup (Zhang et al. 2018) and CutMix (Yun et
al. 2019) as timm implements them.

Expected numbers: see the comments of the configs (``vision/image_classifier*.yaml``).

Cost: that of the backbone; logging adds one confusion matrix at the end of a test.

Composes with every technique that works on linear layers, convolutions or attention of the backbone: structural
edits, trainability and transforms during training.

Limits: one label an image; images are square.
"""

from modules.vision.image_classifier.module import ImageClassifier, build_backbone

__all__ = ["ImageClassifier", "build_backbone"]
