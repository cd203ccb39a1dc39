"""The bytes that Prometheus reads, from plain figures: the table of metrics with its values. Not: the figures (`node.scrape`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from ramster.metrics.names import BY_NAME, COUNTER, HISTOGRAM, METRICS, Metric

# Of each metric that is the node's own: its labels' values and its value.
Samples = Mapping[str, Iterable[tuple[tuple[str, ...], float]]]


class Figures(Collector):
    """All metrics of one moment. `counters` and `histograms` are the clients' sums, `ends_s` the buckets' upper ends."""

    def __init__(
        self,
        samples: Samples,
        counters: Mapping[str, int],
        histograms: Mapping[str, Sequence[int]],
        ends_s: Mapping[str, Sequence[float]],
    ) -> None:
        unknown = set(samples) - set(BY_NAME)
        assert not unknown, f"metrics without a line in the table: {unknown}"
        self._samples, self._counters, self._histograms, self._ends_s = samples, counters, histograms, ends_s

    def collect(self) -> Iterator[Family]:
        """Every metric of the table; one that has nothing to say yet is there without a sample, a client's with 0."""
        for metric in METRICS:
            if metric.kind == HISTOGRAM:
                yield self._histogram(metric)
                continue
            kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
            family = kind(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in self._values(metric):
                family.add_metric(labels, value)
            yield family

    def _values(self, metric: Metric) -> Iterable[tuple[tuple[str, ...], float]]:
        if metric.fields:
            return [(labels, self._counters.get(name, 0)) for name, labels in metric.fields.items()]
        return self._samples.get(metric.name, ())

    def _histogram(self, metric: Metric) -> HistogramMetricFamily:
        family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for name, labels in metric.fields.items():
            ends = [*map(str, self._ends_s[name]), "+Inf"]
            *counts, sum_ns = self._histograms.get(name, [0] * (len(ends) + 1))
            below, buckets = 0, []
            for end, count in zip(ends, counts, strict=True):
                below += count
                buckets.append((end, below))
            family.add_metric(labels, buckets, sum_ns / 1e9)
        return family


def render(figures: Figures, accept: str) -> tuple[str, bytes]:
    """The content type and the bytes in the format that the reader prefers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)
