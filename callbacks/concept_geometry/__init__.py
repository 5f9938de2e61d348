"""Concept geometry: how close an encoder's embeddings are to sums of orthogonal vectors, one for each concept.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.

Before training, after chosen epochs and at the end, the examples of a factor-labelled set are embedded in ``eval``
mode, and logged are, for ``pre`` (what goes into the projection layer) and ``post`` (what comes out of it),

- ``concept_geometry/<features>/r2``: R² of z ≈ z̄ + Σ_i u_{i, c_i}; ``r2_projected`` in the span of linear probes, and
  ``r2_whitened``, whitened in that span, the paper's headline;
- ``cross`` and ``within``: mean |cos| between factors of different concepts, and of different values of one;
- ``k95``: mean over concepts of the number of directions that hold 95 % of the factors' squares, over n_i;
- ``accuracy``: of linear probes that are trained on ``fraction`` of the combinations, on the others (mean over
  concepts); ``seen_accuracy`` on their own; ``penalty``, chosen on held-out combinations of their training.

``concept_geometry.json`` in the run folder has these of every look, and those of each concept; the figure draws R²
against the accuracy. The labels are the targets of the datamodule, (B, k) or (B,), or ``y_<concept>`` of a file of
yours, so that the geometry of any concepts can be followed in any training. With one concept (a classifier's classes)
there are no unseen combinations, and no accuracy.

It works with any module whose ``forward`` takes the batch's inputs, and changes nothing. Without a name the projection
is the head (timm's ``get_classifier()``, or the last layer with weights). Cost: one pass over the data and the fits of
the probes for each look: some seconds for 7,500 embeddings of 64 dimensions. ``validate`` and ``test`` look once.
Incomplete grids are fitted by least squares.
"""

from callbacks.concept_geometry.callback import ConceptGeometry

__all__ = ["ConceptGeometry"]
