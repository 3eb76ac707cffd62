"""What a network costs, from its config alone: parameters and multiply-adds."""

import math
from typing import NamedTuple

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2.architectures.config import ModelConfig


class Cost(NamedTuple):
    """Counts of the network that `build_model` makes of a config."""

    trainable: int  # parameters that training changes
    parameters: int  # all; the others are moving means and variances
    multiply_adds: int  # of one picture, as `count_flops` counts them


def network_cost(config: ModelConfig, image_size: int, classes: int) -> Cost:
    """Return the cost of a network with a classifier.

    Args:
        config: the network.
        image_size: side of the picture in pixels, at least 1.
        classes: width of the classifier, at least 1.

    Raises:
        ValueError: the size or the width is not such an integer.

    Examples:
        >>> cost = network_cost(ModelConfig.from_name("b0"), image_size=224, classes=1000)
        >>> f"{cost.trainable:,} parameters, {cost.multiply_adds / 1e9:.2f} billion multiply-adds"
        '7,139,704 parameters, 0.72 billion multiply-adds'
    """
    check_integer("image_size", image_size, minimum=1)
    check_integer("classes", classes, minimum=1)
    moving, side = 0, image_size
    classifier = config.head_filters * classes
    trainable, multiply_adds = classifier + classes, classifier
    for one in config.convolutions():
        side = math.ceil(side / one.strides)
        trainable += one.weights + one.filters * (1 if one.is_gate else 2)  # bias; gamma and beta
        moving += 0 if one.is_gate else 2 * one.filters
        # Each weight is used once for each pixel of the output.
        multiply_adds += one.weights * (1 if one.is_gate else side**2)
    return Cost(trainable, trainable + moving, multiply_adds)
