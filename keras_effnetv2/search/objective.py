"""The score that a search maximises: accuracy, training speed and size combined.

The paper (EfficientNetV2, arXiv 2104.00298, section 3.3) rewards a network with
A * S**w * P**v: A its accuracy after a short training, S the time of a training step, P its
parameters, w = -0.07 and v = -0.05, "empirically determined to balance the trade-offs".
"""

from dataclasses import dataclass

from keras_effnetv2._common.checks import check_number


@dataclass(frozen=True)
class Objective:
    """The score A * S**w * P**v, which a search maximises.

    Args:
        step_time_exponent: w, at most 0; 0 ignores the step time.
        parameters_exponent: v, at most 0; 0 ignores the parameters.

    Raises:
        ValueError: an exponent above 0, which would reward slow or large networks.
    """

    step_time_exponent: float = -0.07
    parameters_exponent: float = -0.05

    def __post_init__(self) -> None:
        check_number("step_time_exponent", self.step_time_exponent, maximum=0)
        check_number("parameters_exponent", self.parameters_exponent, maximum=0)

    def score(self, accuracy: float, step_time: float, parameters: int) -> float:
        """Return the score of a network with this A, 0 to 1, S, relative to a baseline's, and P."""
        speed = step_time**self.step_time_exponent
        return accuracy * speed * float(parameters) ** self.parameters_exponent
