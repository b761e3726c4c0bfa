"""The paths for operators and their tools: `/healthz`, `/readyz`, `/metrics`, and the console's `/api/stats`."""

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.core.errors import Rejected
from server.streams.streams import Streams
from server.telemetry.metrics import Metrics
from server.telemetry.stats import Stats

BREAKER_VALUES = {"closed": 0, "half_open": 1, "open": 2}


class Operations:
    """Answers them."""

    def __init__(self, streams: Streams, metrics: Metrics) -> None:
        self._streams = streams
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/healthz", self.health),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics, allow_head=False),
            web.get("/api/stats", self.stats, allow_head=False),
        ]

    async def health(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 — aiohttp's handler signature
        """Say that the process is alive."""
        return json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 — as above
        """Say whether new streams are taken. 503 while the gateway drains, or if the store is away."""
        problem = await self._streams.problem()
        return json_response({"status": problem or "ready"}, 503 if problem else 200)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Return all metrics in Prometheus' text format. They are of all owners: only an admin key reads them."""
        if not request[OWNER].admin:
            raise Rejected(403, "Only a key with `admin = true` reads the metrics.", "admin_only")
        self._metrics.buffered.set(self._streams.buffered)
        self._metrics.breaker.clear()  # otherwise targets that a reload has removed would stay
        for target, state in self._streams.upstreams.circuits.items():
            self._metrics.breaker.labels(target).set(BREAKER_VALUES[state])
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self._metrics.text(), headers=headers)

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """Return percentiles of the last hour, the most recent attempts, and the circuits.

        Times are in milliseconds; `at` is seconds since the epoch. The attempts are only those of streams that the
        caller may see. All else is of all owners: a key that is no admin gets the same shape without a figure in it.
        """
        owner = request[OWNER]
        self._metrics.settle()
        stats = self._metrics.stats
        shown = stats if owner.admin else Stats()
        body = {
            "unit": "ms",
            "windows": shown.windows(),
            "minutes": shown.minutes(),
            "recent": stats.recent(lambda name: owner.admin or name == owner.name),
            "breakers": self._streams.upstreams.circuits if owner.admin else {},
        }
        return json_response(body)
