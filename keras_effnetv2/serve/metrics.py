"""Numbers of a server, in the text format of Prometheus (exposition format 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "keras_effnetv2"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # Prometheus' defaults


class Metrics:
    """Counts requests and pictures; used in one thread, that of the event loop."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._pictures: Counter[str] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def add_request(self, method: str, outcome: str, seconds: float) -> None:
        """Count an answered request.

        Args:
            method: what was asked, e.g. "predict".
            outcome: "ok", or what went wrong in a word.
            seconds: from its arrival to its answer.
        """
        self._requests[method, outcome] += 1
        counts = self._buckets.setdefault(method, [0] * (len(_BUCKETS) + 1))
        counts[bisect_left(_BUCKETS, seconds)] += 1
        self._seconds[method] = self._seconds.get(method, 0.0) + seconds

    def add_pictures(self, answered: int, refused: int) -> None:
        """Count picture files that were classified, and those that could not be."""
        self._pictures["answered"] += answered
        self._pictures["refused"] += refused

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all numbers.

        Args:
            gauges: name -> present value of what goes up and down.
        """
        lines = [f"# TYPE {_PREFIX}_requests_total counter"]
        lines += [
            f'{_PREFIX}_requests_total{{method="{method}",outcome="{outcome}"}} {count}'
            for (method, outcome), count in sorted(self._requests.items())
        ]
        lines.append(f"# TYPE {_PREFIX}_pictures_total counter")
        lines += [
            f'{_PREFIX}_pictures_total{{outcome="{outcome}"}} {count}'
            for outcome, count in sorted(self._pictures.items())
        ]
        lines.append(f"# TYPE {_PREFIX}_request_seconds histogram")
        for method in sorted(self._buckets):
            lines += self._histogram(method)
        for name, value in gauges.items():
            lines += [f"# TYPE {_PREFIX}_{name} gauge", f"{_PREFIX}_{name} {value}"]
        return "\n".join(lines) + "\n"

    def _histogram(self, method: str) -> list[str]:
        name, total, lines = f"{_PREFIX}_request_seconds", 0, []
        for bound, count in zip((*_BUCKETS, "+Inf"), self._buckets[method], strict=True):
            total += count
            lines.append(f'{name}_bucket{{method="{method}",le="{bound}"}} {total}')
        lines.append(f'{name}_sum{{method="{method}"}} {self._seconds[method]:.6f}')
        return [*lines, f'{name}_count{{method="{method}"}} {total}']
