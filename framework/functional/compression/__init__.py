"""What weights cost: their rate in bits, entropy coding, and 8-bit floats."""
