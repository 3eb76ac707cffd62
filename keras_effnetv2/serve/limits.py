"""`ServerLimits`: what one server takes on. No TensorFlow is imported here."""

from dataclasses import dataclass


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
        for name, value in vars(self).items():
            if not value > 0 and name != "max_delay":
                raise ValueError(f"{name} must be more than 0. Received: {value!r}")
        if not self.max_delay >= 0:
            raise ValueError(f"max_delay must be 0 or more. Received: {self.max_delay!r}")
