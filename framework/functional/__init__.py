"""Mathematics that several methods, data sets or techniques compute with: tensors in, tensors out."""
