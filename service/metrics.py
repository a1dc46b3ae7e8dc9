"""Every metric of the service, declared once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
HOLD_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """One registry per application, so that two can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, doc: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, doc, labels, registry=self.registry)

        def gauge(name: str, doc: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, doc, labels, registry=self.registry)

        self.requests = counter("rm_requests_total", "Requests answered.", ("route", "status"))
        self.request_seconds = Histogram(
            "rm_request_duration_seconds",
            "Time from request to answer.",
            ("route",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.responses_scored = counter("rm_responses_scored_total", "Responses scored.", ("version",))
        self.tokens_scored = counter("rm_tokens_scored_total", "Tokens scored.", ("version",))
        self.responses_truncated = counter("rm_responses_truncated_total", "Responses cut to fit.")
        self.queue_tokens = gauge("rm_queue_tokens", "Tokens waiting for a forward thread.")
        self.score_cache = counter(
            "rm_score_cache_total", "Responses by whether their score was known: hit or miss.", ("result",)
        )
        self.prefix_cache = counter(
            "rm_prefix_cache_total", "Prompts looked up for sharing, by result: hit or miss.", ("result",)
        )
        self.swaps = counter("rm_swap_total", "Version swaps, by result: swapped or refused.", ("result",))
        self.hold_seconds = Histogram(
            "rm_cut_over_hold_seconds",
            "Time that new requests were held for servers to cut over together, by how it ended: go or abort.",
            ("outcome",),
            buckets=HOLD_BUCKETS_S,
            registry=self.registry,
        )
        self.version_info = gauge("rm_version_info", "1 for the version that serves now.", ("version",))
        self.samples_logged = counter("rm_samples_logged_total", "Sample groups written to the log.")
        self.samples_dropped = counter(
            "rm_samples_dropped_total",
            "Sample groups that did not reach the log (buffer_full, shutdown, unencodable), were repeats of a "
            "known request id (duplicate), or were trimmed from it (trimmed_count, trimmed_age).",
            ("reason",),
        )
        self.samples_buffered = gauge("rm_samples_buffered", "Sample groups waiting for Redis.")
        self.redis_up = gauge("rm_redis_up", "1 while the sample log answers.")

    def looked_up_prefix(self, found: bool) -> None:
        self.prefix_cache.labels("hit" if found else "miss").inc()

    def held(self, outcome: str, seconds: float) -> None:
        self.hold_seconds.labels(outcome).observe(seconds)

    def serving(self, version: str) -> None:
        self.version_info.clear()
        self.version_info.labels(version).set(1)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
