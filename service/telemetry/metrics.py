"""Every metric of the service, declared once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from prometheus_client import ProcessCollector, generate_latest

import metarm
from service.telemetry.registry import MetricRegistry
from service.telemetry.training_metrics import TrainingMetrics

SCORE_BUCKETS = (-20, -10, -5, -3, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 3, 5, 10, 20)
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PART_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
HOLD_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
LOAD_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536)
SHARE_BUCKETS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)
MOST_VERSIONS = 32  # with series of their own, besides those in memory: the last loaded
DROPPED = ("buffer_full", "shutdown", "unencodable", "duplicate", "trimmed_count", "trimmed_age")


class Metrics:
    """One registry per application, so that two can live in one process."""

    def __init__(self) -> None:
        self.registry = MetricRegistry()
        counter, gauge, histogram = self.registry.counter, self.registry.gauge, self.registry.histogram

        self.requests = counter("rm_requests_total", "Requests answered.", ("route", "status"))
        self.request_seconds = histogram(
            "rm_request_duration_seconds", "Time from request to answer.", LATENCY_BUCKETS_S, ("route",)
        )
        self.undelivered = counter(
            "rm_undelivered_total",
            "Requests whose client left: while they waited, which ended their work unless another client waits "
            "for it too (waiting), or before their answer, which was ready, was sent (answered).",
            ("route", "stage"),
        )
        self.undelivered_tokens = counter(
            "rm_undelivered_tokens_total",
            "Tokens computed for requests that ended without an answer; the rewards stay in the score cache.",
        )
        self.responses_scored = counter("rm_responses_scored_total", "Responses scored.", ("version",))
        self.tokens_scored = counter("rm_tokens_scored_total", "Tokens scored.", ("version",))
        self.responses_truncated = counter("rm_responses_truncated_total", "Responses cut to fit.")
        self.responses_with_control_tokens = counter(
            "rm_responses_with_control_tokens_total",
            "Responses scored whose text, or their prompt's, contains control tokens such as </s>.",
        )
        self.queue_tokens = gauge(
            "rm_queue_tokens",
            "Tokens waiting for a forward thread; of each request, at most a quarter of METARM_QUEUE_TOKENS.",
        )
        self.queue_seconds = histogram(
            "rm_queue_duration_seconds",
            "Time from a request's arrival until a forward thread takes its first sequence.",
            PART_BUCKETS_S,
        )
        self.batch_tokens = histogram(
            "rm_batch_tokens",
            "Tokens of a slice, which a forward thread takes from the queue; a shared prompt counts once.",
            TOKEN_BUCKETS,
        )
        self.forward_seconds = histogram(
            "rm_forward_duration_seconds", "Time that a slice's forward took.", PART_BUCKETS_S
        )
        self.padding_ratio = histogram(
            "rm_padding_ratio",
            "Share of padding among the tokens that a slice computes: 0 on the packed routes.",
            SHARE_BUCKETS,
        )
        self.score_cache = counter(
            "rm_score_cache_total", "Responses by whether their score was known: hit or miss.", ("result",)
        )
        self.prefix_cache = counter(
            "rm_prefix_cache_total",
            "Prompts of causal models looked up for sharing, by result: hit or miss.",
            ("result",),
        )
        self.swaps = counter(
            "rm_swap_total",
            "Version swaps (swapped); versions that failed to load, and unusable pointers (refused).",
            ("result",),
        )
        self.load_seconds = histogram(
            "rm_version_load_duration_seconds",
            "Time to verify, load, probe and warm a version.",
            LOAD_BUCKETS_S,
        )
        self.canary_fallbacks = counter(
            "rm_canary_fallbacks_total",
            "Groups that the request's own version scored because the canary failed: non_finite or failed.",
            ("reason",),
        )
        self.version_loads = counter(
            "rm_version_loads_total", "Loads of a version from disk to memory.", ("version",)
        )
        self.versions_loaded = gauge("rm_versions_loaded", "Versions in memory.")
        self.leases = gauge("rm_leases", "Leases that keep versions in memory, as this server sees them.")
        self.hold_seconds = histogram(
            "rm_cut_over_hold_seconds",
            "Time for which new requests were held while servers cut over together, by outcome: go or abort.",
            HOLD_BUCKETS_S,
            ("outcome",),
        )
        self.version_info = gauge(
            "rm_version_info",
            '1 for each label and the version it names. The label "" is the current version.',
            ("version", "label"),
        )
        self.samples_logged = counter("rm_samples_logged_total", "Sample groups written to the log.")
        self.samples_dropped = counter(
            "rm_samples_dropped_total",
            "Sample groups that did not reach the log (buffer_full, shutdown, unencodable), were repeats of a "
            "known request id (duplicate), or were trimmed from it (trimmed_count, trimmed_age).",
            ("reason",),
        )
        self.samples_buffered = gauge("rm_samples_buffered", "Sample groups waiting for Redis.")
        self.redis_up = gauge("rm_redis_up", "1 while the sample log answers.")
        self.loop_failures = counter(
            "rm_loop_failures_total",
            "Failed turns of the server's loops; a loop continues after a failure.",
            ("loop",),
        )
        self.build_info = gauge("rm_build_info", "1 for the version of this package.", ("version",))
        self.drift = DriftMetrics(self.registry)
        self.training = TrainingMetrics(self.registry)
        ProcessCollector(registry=self.registry.prometheus)
        self._versions: OrderedDict[str, None] = OrderedDict()  # loaded last is last
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Create series at 0: an increase is only visible in a series that existed before."""
        self.build_info.labels(metarm.__version__).set(1)
        for result in ("swapped", "refused"):
            self.swaps.labels(result)
        for reason in DROPPED:
            self.samples_dropped.labels(reason)
        for reason in ("non_finite", "failed"):
            self.canary_fallbacks.labels(reason)

    def count_prefix_lookup(self, found: bool) -> None:
        self.prefix_cache.labels("hit" if found else "miss").inc()

    def observe_slice(self, tokens: int, seconds: float) -> None:
        self.batch_tokens.observe(tokens)
        self.forward_seconds.observe(seconds)

    def observe_wait(self, arrived_ns: int, taken_ns: int) -> None:
        self.queue_seconds.observe((taken_ns - arrived_ns) / 1e9)

    def observe_hold(self, outcome: str, seconds: float) -> None:
        self.hold_seconds.labels(outcome).observe(seconds)

    def count_load(self, version: str, in_memory: Collection[str]) -> None:
        """Count a load of a version. The series of versions that left memory long ago end."""
        self.version_loads.labels(version).inc()
        self._versions[version] = None
        self._versions.move_to_end(version)
        for other in list(self._versions)[: max(0, len(self._versions) - MOST_VERSIONS)]:
            if other not in in_memory:
                del self._versions[other]
        self.registry.keep("version", {*self._versions, *in_memory})

    def show_versions(self, current: str | None, labels: Mapping[str, str]) -> None:
        """`labels` are versions by label."""
        self.version_info.clear()
        for label, version in {**labels, **({"": current} if current else {})}.items():
            self.version_info.labels(version, label).set(1)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry.prometheus)


class DriftMetrics:
    """Drift figures of each version, and the actions they led to. The gauges are over the newest groups."""

    def __init__(self, registry: MetricRegistry) -> None:
        counter, gauge, of_version = registry.counter, registry.gauge, ("version",)
        self.score = registry.histogram("rm_score", "Scores served.", SCORE_BUCKETS, of_version)
        # figure (metarm/figures.py), metric, documentation; of the newest groups of each version
        shown = (
            ("spread", "rm_reward_spread", "Spread of scores within groups, over the newest groups."),
            (
                "spread_to_reference",
                "rm_reward_spread_to_reference",
                "That spread ÷ the version's spread on held-out preferences.",
            ),
            ("spread_to_reference", "rm_reward_spread_ratio", "Deprecated: rm_reward_spread_to_reference."),
            (
                "length_correlation",
                "rm_length_correlation",
                "Correlation of score and tokens within groups.",
            ),
            ("truncation_rate", "rm_truncation_ratio", "Share of responses cut to fit."),
            ("saturated_share", "rm_saturated_ratio", "Share of scores outside the reference's 1% to 99%."),
        )
        self._gauges = [(figure, gauge(name, doc, of_version)) for figure, name, doc in shown]
        self._disagreement = gauge(
            "rm_disagreement", "Share of pairs that another version orders differently.", ("version", "other")
        )
        self.non_finite = counter(
            "rm_non_finite_scores_total", "Requests that failed with a non-finite score.", of_version
        )
        self.traffic_dropped = counter(
            "rm_traffic_dropped_total", "Answered groups missing from all drift figures: too many waited."
        )
        self.shadow_scored = counter(
            "rm_shadow_scored_total",
            "Groups scored a second time, by the version that scored them.",
            of_version,
        )
        self.shadow_dropped = counter(
            "rm_shadow_dropped_total",
            "Groups not scored a second time although planned: queue_full, no_longer_wanted, "
            "non_finite or failed.",
            ("reason",),
        )
        self.watches = counter(
            "rm_watches_total",
            "Watches ended on this server: passed, unjudged, left or rolled_back.",
            ("outcome",),
        )
        self.rollbacks = counter(
            "rm_rollbacks_total", "Versions that the watch on this server rolled back.", of_version
        )
        self.auto_retrains = counter(
            "rm_auto_retrain_triggers_total", "Runs that drift started from this server."
        )

    def show(
        self,
        figures: Mapping[str, Mapping[str, float | None]],
        disagreement: Mapping[tuple[str, str], float | None],
    ) -> None:
        """Replace the series of every gauge: figures by version, disagreement by version and other version. A
        figure that is None has no series."""
        for gauge in (*(gauge for _, gauge in self._gauges), self._disagreement):
            gauge.clear()
        for version, of_version in figures.items():
            for figure, gauge in self._gauges:
                value = of_version[figure]
                if value is not None:
                    gauge.labels(version).set(value)
        for pair, share in disagreement.items():
            if share is not None:
                self._disagreement.labels(*pair).set(share)
