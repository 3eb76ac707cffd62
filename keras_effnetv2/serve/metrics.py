"""Numbers of a server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counts requests and pictures.

    Args:
        active: returns how many requests are being answered.
        waiting: returns how many jobs wait to be computed.
    """

    def __init__(self, active: Callable[[], float], waiting: Callable[[], float]) -> None:
        # Not the registry of the process: several services may live in one.
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "keras_effnetv2_requests",
            "Requests by method and by what came of them.",
            ["method", "outcome"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "keras_effnetv2_request_seconds",
            "Time from the arrival of a request to its answer.",
            ["method"],
            registry=self._registry,
        )
        self._pictures = Counter(
            "keras_effnetv2_pictures",
            "Picture files that were answered with classes, and those refused.",
            ["outcome"],
            registry=self._registry,
        )
        for name, text, value in (
            ("requests_active", "Requests being answered.", active),
            ("jobs_waiting", "Jobs that wait to be computed.", waiting),
        ):
            Gauge(f"keras_effnetv2_{name}", text, registry=self._registry).set_function(value)

    def add_request(self, method: str, outcome: str, seconds: float) -> None:
        """Count a request by what came of it ("ok", or what went wrong in a word), and its time."""
        self._requests.labels(method, outcome).inc()
        self._seconds.labels(method).observe(seconds)

    def add_pictures(self, answered: int, refused: int) -> None:
        """Count picture files that were classified, and those that could not be."""
        self._pictures.labels("answered").inc(answered)
        self._pictures.labels("refused").inc(refused)

    def text(self) -> bytes:
        """Return all numbers in the text format of Prometheus, version 0.0.4."""
        return generate_latest(self._registry)
