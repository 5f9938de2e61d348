"""What a trained network computes, read from its weights and activations."""
