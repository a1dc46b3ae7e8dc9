"""Every metric of the service, declared once."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SCORE_BUCKETS = (-20, -10, -5, -3, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 3, 5, 10, 20)
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
        self.swaps = counter(
            "rm_swap_total", "Version swaps, and versions that would not load: swapped or refused.", ("result",)
        )
        self.canary_fallbacks = counter(
            "rm_canary_fallbacks_total",
            "Groups that the canary could not score and the request's own version did: non_finite or failed.",
            ("reason",),
        )
        self.version_loads = counter(
            "rm_version_loads_total", "Loads of a version from disk to memory.", ("version",)
        )
        self.versions_loaded = gauge("rm_versions_loaded", "Versions in memory.")
        self.leases = gauge("rm_leases", "Leases that keep versions in memory.")
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
        self.drift = DriftMetrics(self.registry)

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


class DriftMetrics:
    """What served scores say of a version, and what came of it. The gauges are over the newest groups."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, doc: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, doc, labels, registry=registry)

        def gauge(name: str, doc: str, labels: tuple[str, ...]) -> Gauge:
            return Gauge(name, doc, labels, registry=registry)

        of_version = ("version",)
        self.score = Histogram(
            "rm_score", "Scores served.", of_version, buckets=SCORE_BUCKETS, registry=registry
        )
        # by the names of the figures (service/drift.py)
        self._gauges = {
            "spread": gauge(
                "rm_reward_spread", "Spread of scores within groups, over the newest groups.", of_version
            ),
            "spread_ratio": gauge(
                "rm_reward_spread_ratio", "That spread by the one in distribution.", of_version
            ),
            "length_correlation": gauge(
                "rm_length_correlation", "Correlation of score and tokens within groups.", of_version
            ),
            "truncation_rate": gauge("rm_truncation_ratio", "Share of responses cut to fit.", of_version),
            "saturated_share": gauge(
                "rm_saturated_ratio", "Share of scores outside the reference's 1% to 99%.", of_version
            ),
        }
        self._disagreement = gauge(
            "rm_disagreement", "Share of pairs that another version orders otherwise.", ("version", "other")
        )
        self.non_finite = counter(
            "rm_non_finite_scores_total", "Scorings that failed by a score that is no number.", of_version
        )
        self.traffic_dropped = counter(
            "rm_traffic_dropped_total", "Answered groups left out of the drift figures: too many waited."
        )
        self.shadow_scored = counter(
            "rm_shadow_scored_total", "Groups scored a second time, by the version that did.", of_version
        )
        self.shadow_dropped = counter(
            "rm_shadow_dropped_total",
            "Groups that were to be scored a second time and were not: queue_full, no_longer_wanted, "
            "non_finite or failed.",
            ("reason",),
        )
        self.watches = counter("rm_watches_total", "Watch windows ended, by outcome.", ("outcome",))
        self.rollbacks = counter("rm_rollbacks_total", "Versions rolled back by their watch.", of_version)
        self.auto_retrains = counter("rm_auto_retrain_triggers_total", "Runs that drift has started.")

    def show(
        self,
        figures: Mapping[str, Mapping[str, float | None]],
        disagreement: Mapping[tuple[str, str], float | None],
    ) -> None:
        """Set every gauge anew: figures by version, disagreement by version and other. One that is None is
        not shown, and neither are versions that are gone."""
        for gauge in (*self._gauges.values(), self._disagreement):
            gauge.clear()
        for version, of_version in figures.items():
            for name, gauge in self._gauges.items():
                figure = of_version[name]
                if figure is not None:
                    gauge.labels(version).set(figure)
        for pair, share in disagreement.items():
            if share is not None:
                self._disagreement.labels(*pair).set(share)
