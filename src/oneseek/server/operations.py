"""For who keeps the server running: whether it is well, and its figures for Prometheus."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneseek import __version__
from oneseek.errors import OneSeekError
from oneseek.files.layout import Home
from oneseek.runs.queue import ACTIVE, Supervisor
from oneseek.server.bodies import answer, answers
from oneseek.server.live import Live
from oneseek.state.access import Access

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_OTHER = "other"
_EXAMPLE = 'oneseek_requests_total{method="GET",route="/api/runs",status="200"} 17.0\n'

_log = logging.getLogger("oneseek.server")


class Health(msgspec.Struct, frozen=True):
    """Whether the home and its database can be read."""

    status: Literal["ok", "unavailable"]
    version: str


class Metrics:
    """Figures of a server. Of requests they are kept as they come, of everything else they are taken when asked for."""

    def __init__(self, runs: Supervisor, live: Live) -> None:
        # Each figure would come with a second one, since when it is counted.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "oneseek_requests", "Requests that were answered.", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "oneseek_request_seconds",
            "Seconds until the answer began: some go on for as long as a run does.",
            ("method", "route"),
            registry=self._registry,
        )
        self.received = Counter(
            "oneseek_received_bytes", "Bytes of what was sent with requests.", ("route",), registry=self._registry
        )
        self._live = live
        self._viewers = Gauge("oneseek_viewers", "Who watches a run just now.", registry=self._registry)
        self._registry.register(_Now(runs))
        ProcessCollector(registry=self._registry)

    async def text(self) -> bytes:
        """All of them, in the text format of Prometheus.

        Raises:
            OneSeekError: runs or the queue can't be read.
        """
        self._viewers.set(self._live.viewers)  # here, in the event loop in which they come and go
        return await run_in_threadpool(generate_latest, self._registry)


class _Now(Collector):
    def __init__(self, runs: Supervisor) -> None:
        self._runs = runs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        statuses = Tally(run.status for run in self._runs.active())
        yield _gauge("oneseek_runs", "Runs that go on.", "status", dict.fromkeys(ACTIVE, 0) | statuses)
        waiting = Tally(place.device for place in self._runs.places() if place.position is not None)
        devices = dict.fromkeys(self._runs.devices, 0)
        yield _gauge("oneseek_queue", "Runs that wait for a device.", "device", devices | waiting)


class Metered:
    """Around an application: counts what is asked of it, by route and never by address, of which there are endless."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else _OTHER

        async def receiving() -> Message:
            message = await receive()
            if body := message.get("body"):
                self._metrics.received.labels(_route(scope)).inc(len(body))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(method, _route(scope), message["status"]).inc()
                self._metrics.seconds.labels(method, _route(scope)).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receiving, sending)


def routes(metrics: Metrics, access: Access, home: Home) -> APIRouter:
    """/healthz and /metrics."""
    router = APIRouter()
    well = Health("ok", __version__)
    unwell = Health("unavailable", __version__)

    @router.get(
        "/healthz",
        responses=answers(Health, well) | answers(Health, unwell, status=503, description="It can't"),
    )
    def health() -> Response:
        """Whether the server can do its work; who needs to know why not reads its log."""
        try:
            os.scandir(home.root).close()
            _ = access.set_up
        except (OneSeekError, OSError) as error:
            _log.warning("unwell", extra={"cause": str(error)})
            return answer(unwell, 503)
        return answer(well)

    @router.get("/metrics", responses=_metrics_text())
    async def figures() -> Response:
        """What Prometheus reads: https://prometheus.io/docs/instrumenting/exposition_formats/"""
        return Response(await metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def _metrics_text() -> dict[int | str, Any]:
    return {
        200: {"description": "Done", "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}}}
    }


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", _OTHER)


def _gauge(name: str, what: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), count)
    return family
