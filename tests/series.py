"""What a Prometheus metric of this process shows."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase


def value_of(metric: MetricWrapperBase) -> float:
    """Of a counter or gauge without labels, or with all of them given."""
    (collected,) = metric.collect()
    return float(collected.samples[0].value)
