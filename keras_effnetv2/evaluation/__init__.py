"""Judge a network: choose the pictures, score them, compute the figures."""
