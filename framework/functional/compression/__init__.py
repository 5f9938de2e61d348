"""Compression of weights: their rate in bits, entropy coding, and 8-bit floats."""
