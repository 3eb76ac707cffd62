"""`ServerLimits`: what one server takes on. No TensorFlow is imported here."""

from dataclasses import dataclass

from keras_effnetv2._common.checks import check_number


@dataclass(frozen=True)
class ServerLimits:
    """What one server takes on.

    Attributes:
        max_body_bytes: of a request.
        max_requests: answered at the same time, counting those that are still being received; more
            get status 503. Memory for bodies is at most the product of the two.
        timeout: seconds for receiving and answering a request.
        receive_timeout: seconds for the body of a request.
        max_batch: pictures that are computed at once.
        max_delay: seconds that a request waits for others, to be computed together with them.
    """

    max_body_bytes: int = 32 * 2**20
    max_requests: int = 32
    timeout: float = 60.0
    receive_timeout: float = 30.0
    max_batch: int = 16
    max_delay: float = 0.002

    def __post_init__(self) -> None:
        check_number("max_delay", self.max_delay, minimum=0)
        for name in set(vars(self)) - {"max_delay"}:
            check_number(name, getattr(self, name), above=0)
