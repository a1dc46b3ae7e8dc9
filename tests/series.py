"""The value of a Prometheus metric of this process."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase


def value_of(metric: MetricWrapperBase) -> float:
    """Return the value of a counter or gauge that has no labels, or whose labels are all set."""
    (collected,) = metric.collect()
    return float(collected.samples[0].value)
