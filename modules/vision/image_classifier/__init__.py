"""Image classification with any backbone of timm.

Paper: none; it is the base model for techniques on images.

What it is for: a plain, well-known training of an image classifier, to which any technique can be added and compared.
The backbone is a timm model by name (about a thousand: ViT, ResNet, ConvNeXt, …) with any of its constructor's
arguments, or ``mlp``, ``cnn`` and ``group_norm_cnn`` (small) or ``onet`` (of a face detector). Nothing is downloaded:
weights come from a local file or are random.

The loss is cross-entropy, with label smoothing, or with soft targets from mixup (Zhang et al. 2018) and CutMix (Yun et
al. 2019) as timm implements them.

Expected numbers: see the comments of the configs (``vision/image_classifier*.yaml``).

Cost: that of the backbone, and one confusion matrix at the end of a test.

Composes with every technique that works on linear layers, convolutions or attention of the backbone.

Limits: one label for each image; images are square.
"""

from modules.vision.image_classifier.module import ImageClassifier, build_backbone

__all__ = ["ImageClassifier", "build_backbone"]
