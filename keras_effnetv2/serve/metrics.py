"""Metrics of a server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """Counts requests, pictures and versions of a model; the functions return what gauges show."""

    def __init__(
        self,
        active: Callable[[], float],
        waiting: Callable[[], float],
        name: str,
        version: Callable[[], float],
    ) -> None:
        # Not the registry of the process: several services may live in one.
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "keras_effnetv2_requests",
            "Requests by method and outcome.",
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
            "Picture files that were classified, and those that were refused.",
            ["outcome"],
            registry=self._registry,
        )
        for gauge, text, value in (
            ("requests_active", "Requests being answered.", active),
            ("jobs_waiting", "Jobs waiting to be computed.", waiting),
        ):
            Gauge(f"keras_effnetv2_{gauge}", text, registry=self._registry).set_function(value)
        served = Gauge(
            "keras_effnetv2_model_version",
            "Newest version that is served.",
            ["model"],
            registry=self._registry,
        )
        served.labels(name).set_function(version)
        self._loads = Counter(
            "keras_effnetv2_version_loads",
            "Versions that were loaded, and those that failed to load.",
            ["outcome"],
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def add_request(self, method: str, outcome: str, seconds: float) -> None:
        """Count a request by its outcome ("ok", or a word for the error), and its time."""
        self._requests.labels(method, outcome).inc()
        self._seconds.labels(method).observe(seconds)

    def add_pictures(self, answered: int, refused: int) -> None:
        """Count picture files that were classified, and those that were refused."""
        self._pictures.labels("answered").inc(answered)
        self._pictures.labels("refused").inc(refused)

    def add_load(self, outcome: str) -> None:
        """Count a version that was loaded ("ok") or failed to load ("error")."""
        self._loads.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus, version 0.0.4."""
        return generate_latest(self._registry)
