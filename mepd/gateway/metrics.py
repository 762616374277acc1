"""Numbers for Prometheus. None names an identity, an endpoint or a task."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
"""Those that are told apart, lest callers make up series."""


class Metrics:
    """One set for each service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "mepd_gateway_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "mepd_gateway_request_seconds",
            "Time to the answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self.accepted = self._counter("tasks_accepted", "Tasks of accepted submissions.")
        self.results = self._counter("results_stored", "Results stored.")
        self.relayed = self._counter("results_relayed", "Results that the broker has confirmed.")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"mepd_gateway_{name}", text, registry=self._registry)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is looked up when it is asked for."""
        gauge = Gauge(f"mepd_gateway_{name}", text, registry=self._registry)
        gauge.set_function(value)

    def page(self) -> bytes:
        return generate_latest(self._registry)


def _route(scope: Scope) -> str:
    """The path's pattern; anything else is "other", lest callers make up series."""
    return str(getattr(scope.get("route"), "path", "other"))


class Meter:
    """Counts and times each request (ASGI middleware)."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = _route(scope)
                known = route != "other" and scope["method"] in METHODS
                method = scope["method"] if known else "other"
                self._metrics.requests.labels(method, route, str(message["status"])).inc()
                self._metrics.seconds.labels(route).observe(time.monotonic() - started)
            await send(message)

        await self._app(scope, receive, watch)
