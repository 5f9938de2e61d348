"""Neural code: how unique the activation patterns of a network are, and what they say of the class.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.

The code of an example has a bit for each unit of each ReLU layer (and each position of a feature map), 1 where the unit
is on. Before training, after chosen epochs and at the end, the codes of training and validation data are read in
``eval`` mode, and logged are, for each part,

- ``neural_code/<part>/redundancy_ratio``: RR = (n − m)/n for n examples with m distinct codes; compare it only at equal
  n, which is logged as ``examples``;
- ``neural_code/bits`` D, and ``varying_bits``, those that are neither always 0 nor always 1 in all parts together;
- ``neural_code/<part>/kmeans``, the purity of K-means fitted to the codes of that part, and ``knn`` and ``logistic``,
  the accuracies of 9 nearest neighbours (Hamming) and one-vs-one logistic regression, fitted to codes of training data;
- at the end ``neural_code/<part>/regime``: 0 under-expressive (RR ≥ ``under``), 1 critical, 2 sufficiently expressive
  (RR ≤ ``sufficient``). The paper names the regimes and gives no thresholds; the defaults are ours.

Networks without ReLU have codes of the signs of their activations' inputs, which are no linear regions: the same
numbers are then logged under ``sign_code/``. ReLUs are found where they are called: functional, in-place and repeated
ones too.

``codes.npz`` in the run folder has the last codes, packed, with the layers' offsets and the examples' indices;
``read_codes`` reads it. ``test`` and ``validate`` measure the codes of a checkpoint, and write ``codes_test.npz`` and
``codes_val.npz``. Codes do not depend on the loaders' batch size, workers and processes: they are read in batches of
their own. In any script: ``framework.functional.neural_code.neural_codes(model, x)``.

It works with any module whose ``forward`` takes the batch's inputs, and data sets with a length; it does not change
the model. Cost: one pass over the data for each measurement; logistic regression takes seconds to minutes with
thousands of bits (``classifiers: [kmeans, knn]`` leaves it out). Memory: an eighth of a byte for each bit of each saved
example, 16 bytes for each other one (``save: false``), and one batch. K-means and logistic regression convert
``fit_examples`` codes to float64, and are refused where these take more than 8 GB. Settings that the model or the data
do not fit are refused before training. Limit: the upper kink of ReLU6 has no bit.
"""

from callbacks.neural_code.callback import NeuralCode
from callbacks.neural_code.codes_file import read_codes

__all__ = ["NeuralCode", "read_codes"]
