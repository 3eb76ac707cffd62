"""A config becomes a Keras network: blocks, builders, weights in it, folding, Grad-CAM."""
