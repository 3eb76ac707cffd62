"""The error for a request that cannot be answered."""


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status, 400..599.
        message: one sentence or two for the client.
        outcome: the word for it in the metrics.
    """

    def __init__(self, status: int, message: str, outcome: str = "bad_request") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.outcome = outcome


def client_left() -> RequestError:
    """Return the error for a client that did not wait; nobody but the logs sees it.

    TensorFlow Serving has this status, too.
    """
    return RequestError(499, "The client disconnected", "disconnected")
