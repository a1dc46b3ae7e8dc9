"""A Prometheus registry that remembers what was declared, for the documentation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

Kind = Literal["counter", "gauge", "histogram"]
Counted = TypeVar("Counted", Counter, Histogram)


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric under its name in queries; a histogram's has no `_bucket`, `_sum` or `_count`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    doc: str

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """An empty family of a counter or a gauge, to add samples to."""
        of_kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return of_kind(self.name, self.doc, labels=self.labels)


class MetricRegistry:
    """Declares each metric once."""

    def __init__(self) -> None:
        self.prometheus = CollectorRegistry()
        self.declared: list[Declared] = []
        self._counting: list[tuple[Counter | Histogram, tuple[str, ...]]] = []  # with their labels

    def counter(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> Counter:
        """`name` ends in _total."""
        self._declare(name, "counter", doc, labels)
        return self._remembered(Counter(name, doc, labels, registry=self.prometheus), labels)

    def gauge(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> Gauge:
        self._declare(name, "gauge", doc, labels)
        return Gauge(name, doc, labels, registry=self.prometheus)

    def histogram(
        self, name: str, doc: str, buckets: Sequence[float], labels: tuple[str, ...] = ()
    ) -> Histogram:
        self._declare(name, "histogram", doc, labels)
        return self._remembered(Histogram(name, doc, labels, buckets=buckets, registry=self.prometheus), labels)

    def collected(self, collector: Collector, metrics: Sequence[Declared]) -> None:
        """`collector` provides `metrics` at each scrape."""
        self.declared += metrics
        self.prometheus.register(collector)

    def keep(self, label: str, values: Collection[str]) -> None:
        """Forget the series of counters and histograms that have another value of `label`."""
        for metric, labels in self._counting:
            if label in labels:
                samples = (sample for family in metric.collect() for sample in family.samples)
                for series in {tuple(sample.labels[name] for name in labels) for sample in samples}:
                    if series[labels.index(label)] not in values:
                        metric.remove(*series)

    def _remembered(self, metric: Counted, labels: tuple[str, ...]) -> Counted:
        self._counting.append((metric, labels))
        return metric

    def _declare(self, name: str, kind: Kind, doc: str, labels: tuple[str, ...]) -> None:
        self.declared.append(Declared(name, kind, labels, doc))
