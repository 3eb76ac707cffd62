"""`ServerLimits`: the limits of one server. This module does not import TensorFlow."""

from dataclasses import dataclass

from keras_effnetv2._common.checks import check_number


@dataclass(frozen=True)
class ServerLimits:
    """The limits of one server."""

    max_body_bytes: int = 32 * 2**20  # of a request
    max_rows: int = 1000  # pictures, files or examples in a request
    # At the same time, without those still arriving; more get status 503. All bodies together take
    # at most `max_requests * max_body_bytes`.
    max_requests: int = 32
    timeout: float = 60.0  # seconds to receive and answer a request
    receive_timeout: float = 30.0  # seconds to receive the body of a request
    max_batch: int = 16  # pictures
    max_delay: float = 0.002  # seconds that a request waits for others, to be computed in one batch

    def __post_init__(self) -> None:
        check_number("max_delay", self.max_delay, minimum=0)
        for name in set(vars(self)) - {"max_delay"}:
            check_number(name, getattr(self, name), above=0)
