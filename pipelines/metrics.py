"""Prometheus metrics whose values are read when they are collected."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

LATENCIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0, 30.0)  # seconds


class _Single(Collector):
    def __init__(
        self,
        family: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        text: str,
        value: Callable[[], float],
    ) -> None:
        self._family, self._name, self._text, self._value = family, name, text, value

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yield self._family(self._name, self._text, value=self._value())


class _Labelled(Collector):
    def __init__(
        self,
        family: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        text: str,
        label: str,
        values: Callable[[], Mapping[str, float]],
    ) -> None:
        self._family, self._name, self._text, self._label, self._values = family, name, text, label, values

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        family = self._family(self._name, self._text, labels=[self._label])
        for label, value in self._values().items():
            family.add_metric([label], value)
        yield family


def gauge(name: str, text: str, value: Callable[[], float]) -> Collector:
    """A value that goes up and down."""
    return _Single(GaugeMetricFamily, name, text, value)


def counter(name: str, text: str, value: Callable[[], float]) -> Collector:
    """A value that only goes up."""
    return _Single(CounterMetricFamily, name, text, value)


def gauges(name: str, text: str, label: str, values: Callable[[], Mapping[str, float]]) -> Collector:
    """Gauges, one a value of ``label``."""
    return _Labelled(GaugeMetricFamily, name, text, label, values)


def counters(name: str, text: str, label: str, values: Callable[[], Mapping[str, float]]) -> Collector:
    """Counters, one a value of ``label``."""
    return _Labelled(CounterMetricFamily, name, text, label, values)


def latency(name: str, text: str) -> Histogram:
    """A histogram of seconds, which belongs to no registry yet."""
    return Histogram(name, text, buckets=LATENCIES, registry=None)
