"""`GET /api/stats`: what the console plots, as JSON. All times are in milliseconds, `at` in seconds since the epoch."""

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.streams.streams import Streams
from server.telemetry.metrics import Metrics


class StatsPath:
    """Percentiles of the last hour, the last attempts one by one, and the circuits."""

    def __init__(self, streams: Streams, metrics: Metrics) -> None:
        self._streams = streams
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """Return what is served here."""
        return [web.get("/api/stats", self.read, allow_head=False)]

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Return everything; the last attempts only of streams that the caller may see."""
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
