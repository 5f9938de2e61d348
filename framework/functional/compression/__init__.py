"""What weights cost: their rate in bits, entropy coding, 8-bit floats, and compressed checkpoints."""
