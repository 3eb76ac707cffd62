"""The address of the optimizers in `.keras` files that were saved before they moved."""

from keras_effnetv2.recipes.optimizers import SGD, Adam, RMSprop

__all__ = ["SGD", "Adam", "RMSprop"]
