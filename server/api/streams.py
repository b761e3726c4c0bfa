"""`/v1/streams`: list, state, resume, abort."""

import asyncio
from typing import Any

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.api.requests import cursor
from server.api.respond import Responder
from server.core.dialect import Dialects
from server.core.errors import Rejected
from server.relay.stream import Stream
from server.streams.streams import Streams

LISTED_PER_TURN = 256  # of the event loop: there may be a hundred thousand retained streams


class StreamPaths:
    """The gateway's own paths about streams."""

    def __init__(self, streams: Streams, responder: Responder, dialects: Dialects) -> None:
        self._streams = streams
        self._responder = responder
        self._dialects = dialects

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of these paths."""
        return [
            web.get("/v1/streams", self.list, allow_head=False),
            web.get("/v1/streams/{id}", self.read, allow_head=False),
            web.delete("/v1/streams/{id}", self.abort),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Return every live and retained stream that the caller may see."""
        data = []
        async for stream in self._streams.visible(request[OWNER]):
            data.append(stream.view() | _owner(request, stream))
            if len(data) % LISTED_PER_TURN == 0:
                await asyncio.sleep(0)
        return json_response({"object": "list", "data": data})

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Return a stream's state as JSON, or its records after the cursor and then live."""
        await self._responder.wait_to_start(request)
        stream = await self._streams.find(request.match_info["id"], request[OWNER])
        accept = request.headers.get("Accept", "")
        if "application/json" in accept and "text/event-stream" not in accept:
            return json_response(stream.detail() | _owner(request, stream))
        dialect = stream.dialect
        if (name := request.query.get("format")) is not None:
            requested = self._dialects.named(name)
            if requested is None:
                names = ", ".join(self._dialects.names)
                raise Rejected(400, f"Invalid 'format': it must be one of {names}.", "invalid_value", "format")
            dialect = requested
        return await self._responder.resume(request, stream, cursor(request), dialect)

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """Cancel a live stream. An ended one stays as it is."""
        stream = await self._streams.find(request.match_info["id"], request[OWNER])
        reason = request.query.get("reason", "aborted by request")[:200]
        # Shielded: otherwise, if the client hangs up half-way, the stream is claimed here and has no relay.
        await asyncio.shield(self._streams.abort(stream, reason))
        return web.Response(status=204)


def _owner(request: web.Request, stream: Stream) -> dict[str, Any]:
    """Return whose stream it is, by the name of the key, if the caller has an admin key: only that one sees others'."""
    caller = request[OWNER]
    return {"owner": stream.beginning.key_name} if caller.admin and caller.name else {}
