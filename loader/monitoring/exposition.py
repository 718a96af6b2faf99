"""The figures in Prometheus's text format, or OpenMetrics; imports prometheus_client."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from loader.monitoring.figures import FIGURES, PREFIX, Figures


class Exposition(Collector):
    """The figures of one service; or of several, with the label `service`, its number."""

    def __init__(self, figures: Sequence[Figures]) -> None:
        self._figures, self._registry = figures, CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for figure in FIGURES:
            kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            several = len(self._figures) > 1
            family = kind(PREFIX + figure.name, figure.help, labels=[*figure.labels, *(["service"] if several else [])])
            for number, figures in enumerate(self._figures):
                for of in figure.series:
                    labels = [*of, str(number)] if several else of
                    family.add_metric(labels, figures.get(figure, *of) * figure.scale)
            yield family

    def text(self, accept: str) -> tuple[bytes, str]:
        """All figures, and their content type: the one that the request's Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
