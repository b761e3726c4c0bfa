"""`GET /api/stats`: the figures of the console, as JSON. Times are in milliseconds; `at` is seconds since the epoch."""

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.streams.streams import Streams
from server.telemetry.metrics import Metrics


class StatsPath:
    """Answers `/api/stats`: percentiles of the last hour, the most recent attempts, and the circuits."""

    def __init__(self, streams: Streams, metrics: Metrics) -> None:
        self._streams = streams
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/api/stats", self.read, allow_head=False)]

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Return all figures. Of the attempts, only those of streams that the caller may see."""
        owner = request[OWNER]
        self._metrics.settle()
        stats = self._metrics.stats
        body = {
            "unit": "ms",
            "windows": stats.windows(),
            "minutes": stats.minutes(),
            "recent": stats.recent(lambda name: owner.admin or name == owner.name),
            "breakers": self._streams.upstreams.circuits,
        }
        return json_response(body)
