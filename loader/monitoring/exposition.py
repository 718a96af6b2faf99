"""The figures in Prometheus's text format, or OpenMetrics; imports prometheus_client."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from loader.monitoring.figures import FIGURES, PREFIX, Figures


class Exposition(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures, self._registry = figures, CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for figure in FIGURES:
            kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            family = kind(PREFIX + figure.name, figure.help, labels=figure.labels)
            for of in figure.series:
                family.add_metric(of, self._figures.get(figure, *of) * figure.scale)
            yield family

    def text(self, accept: str) -> tuple[bytes, str]:
        """All figures, and their content type: the one that the request's Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
