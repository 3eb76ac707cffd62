"""Training: what to train with (`recipe`), how rates, sizes and averages move, and `fit`."""
