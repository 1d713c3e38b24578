"""Counts and times, in Prometheus' format.

Each application has a registry of its own, so several may live in one process. Gauges of a model's state are
read when they are asked for.

References: https://prometheus.io/docs/instrumenting/exposition_formats/; TTFT is the time from a request's
arrival to its first token, TPOT the time a token after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from exnihilo.errors import MissingExtra

if TYPE_CHECKING:
    from exnihilo.serve.models import Shelf

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_EACH = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_WHOLE = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """What a server counts. An `Observer` of its workers.

    Raises:
        MissingExtra: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Histogram
        except ImportError:
            raise MissingExtra.of("prometheus-client", "serve") from None
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Any:
            return Counter(f"exnihilo_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Any:
            return Histogram(f"exnihilo_{name}", text, labels, registry=registry, buckets=buckets)

        model = ("model",)
        self.requests = counter("requests", "HTTP requests answered", ("path", "status"))
        self.seconds = histogram("request_seconds", "until a request's last byte", ("path",), _WHOLE)
        self.disconnects = counter("disconnects", "requests whose reader left before the end", ("path",))
        self.prompt_tokens = counter("prompt_tokens", "tokens of prompts taken on", model)
        self.tokens = counter("generated_tokens", "tokens drawn", model)
        self.texts = counter("texts", "texts written to their end", model)
        self.engine_failures = counter("engine_failures", "failures of the engine", model)
        self.reloads = counter("reloads", "newer checkpoints taken on", model)
        self.ttft = histogram("ttft_seconds", "until a text's first token", model, _FIRST)
        self.tpot = histogram("tpot_seconds", "a token after the first", model, _EACH)

    def watch(self, shelf: Shelf) -> None:
        """Gauges of a shelf's models."""
        self.registry.register(_State(shelf))

    def first(self, name: str, seconds: float) -> None:
        """A text's first token was drawn, so long after its request came."""
        self.ttft.labels(name).observe(seconds)

    def over(self, name: str, tokens: int, seconds: float) -> None:
        """A text is over: its tokens, and seconds since its first."""
        self.texts.labels(name).inc()
        if tokens > 1:
            self.tpot.labels(name).observe(seconds / (tokens - 1))

    def drawn(self, name: str, tokens: int) -> None:
        """So many tokens were drawn."""
        self.tokens.labels(name).inc(tokens)

    def failed(self, name: str) -> None:
        """The engine failed."""
        self.engine_failures.labels(name).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class _State:
    """Reads gauges from the models when they are asked for."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def describe(self) -> list[Any]:
        """Nothing: the names do not matter at registration."""
        return []

    def collect(self) -> Iterator[Any]:
        """The gauges."""
        from prometheus_client.core import GaugeMetricFamily

        label = ["model"]
        waiting = GaugeMetricFamily("exnihilo_queue", "texts or examples that wait", labels=label)
        active = GaugeMetricFamily("exnihilo_active", "texts or examples in work", labels=label)
        slots = GaugeMetricFamily("exnihilo_slots", "texts that may be in work", labels=label)
        use = GaugeMetricFamily("exnihilo_kv_use", "share of the key-value cache in work", labels=label)
        for served in self._shelf.all():
            desk = served.worker or served.batcher
            if desk is None:
                continue
            waiting.add_metric([served.name], desk.waiting)
            active.add_metric([served.name], desk.active)
            if served.worker is not None:
                slots.add_metric([served.name], served.worker.slots)
                use.add_metric([served.name], served.worker.kv_use)
        yield from (waiting, active, slots, use)
