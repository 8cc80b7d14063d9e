"""The history's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.registry import Collector

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # seconds


class HistoryMetrics:
    """What is counted."""

    def __init__(self) -> None:
        self.queued = Gauge("loquent_history_queue_bytes", "Bytes that wait to be written.", registry=None)
        self.commits = Counter("loquent_history_commits", "Transactions that were committed.", registry=None)
        self.failures = Counter("loquent_history_failures", "Attempts to write that failed.", registry=None)
        self.seconds = Histogram(
            "loquent_history_commit_seconds", "Duration of a commit.", buckets=BUCKETS, registry=None
        )

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """For a registry."""
        return (self.queued, self.commits, self.failures, self.seconds)
