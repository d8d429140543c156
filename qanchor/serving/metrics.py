"""What Prometheus reads at `/metrics`: how much, how fast, how fresh. No user, no text, no key."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from qanchor.serving.reader import Reader

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """One registry a service, so that two in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("qanchor_requests", "Requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "qanchor_request_seconds", "Until the reply", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.users = Counter("qanchor_users", "Users embedded", ["path"], registry=self.registry)
        self.events = Counter("qanchor_events", "Events appended", registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batches = Histogram("qanchor_batch_users", "Users of a batch", buckets=sizes, registry=self.registry)
        self.waiting = Gauge("qanchor_waiting_users", "Users that wait for the model", registry=self.registry)
        self.warm_bytes = Gauge("qanchor_warm_bytes", "Prefixes in memory", registry=self.registry)
        self.warm_hits = Gauge("qanchor_warm_hits", "Prefixes found in memory", registry=self.registry)
        self.warm_misses = Gauge("qanchor_warm_misses", "Prefixes read by the model", registry=self.registry)
        self.refreshed = Gauge("qanchor_refreshed_seconds", "as_of of the last refresh", registry=self.registry)

    def warm(self, reader: Reader) -> None:
        self.warm_bytes.set(reader.warm.nbytes)
        self.warm_hits.set(reader.hits)
        self.warm_misses.set(reader.misses)

    def text(self) -> bytes:
        return generate_latest(self.registry)
