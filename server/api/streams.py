"""`/v1/streams`: list, state, resume, abort."""

import asyncio
from typing import cast, get_args

import orjson
from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.api.requests import cursor
from server.api.respond import Responder
from server.core.errors import Rejected
from server.core.records import Form
from server.relay.stream import Stream
from server.streams.streams import Streams


class StreamPaths:
    """The gateway's own paths about streams."""

    def __init__(self, streams: Streams, responder: Responder) -> None:
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return what is served here."""
        return [
            web.get("/v1/streams", self.list, allow_head=False),
            web.get("/v1/streams/{id}", self.read, allow_head=False),
            web.delete("/v1/streams/{id}", self.abort),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Return every live and retained stream that the caller may see."""
        data = [stream.view() async for stream in self._streams.visible(request[OWNER])]
        return json_response({"object": "list", "data": data})

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Return a stream's state, or the stream again after the cursor, and then live."""
        await self._responder.turn(request)
        stream = await self._streams.find(request.match_info["id"], request[OWNER])
        accept = request.headers.get("Accept", "")
        if "application/json" in accept and "text/event-stream" not in accept:
            return json_response(stream.detail())
        form = request.query.get("format", stream.beginning.form)
        if form not in get_args(Form):
            raise Rejected(400, "Invalid 'format': it must be openai or native.", "invalid_value", "format")
        return await resume(request, stream, self._responder, cursor(request), cast("Form", form))

    async def abort(self, request: web.Request) -> web.StreamResponse:
        """Cancel a live stream; an ended one is left as it is."""
        stream = await self._streams.find(request.match_info["id"], request[OWNER])
        reason = request.query.get("reason", "aborted by request")[:200]
        # Shielded: a client that hangs up half-way must not leave a stream that is claimed here and has no relay.
        await asyncio.shield(self._streams.abort(stream, reason))
        return web.Response(status=204)


async def resume(
    request: web.Request, stream: Stream, responder: Responder, after: int, form: Form
) -> web.StreamResponse:
    """Answer with a stream after a cursor, and then live; 204 where it has ended there. Raises Rejected 400."""
    tail, beginning = stream.log.tail, stream.beginning
    if after > tail:
        raise Rejected(400, f"Invalid cursor: the stream ends at {tail}.", "invalid_cursor")
    if form == "native" and beginning.form == "openai" and (orjson.loads(beginning.body).get("n") or 1) > 1:
        raise Rejected(400, "The native form has one choice, this stream has several.", "invalid_value", "format")
    if beginning.stream and after and after == tail and stream.ended.is_set():
        return web.Response(status=204, headers={"X-Stream-Id": stream.id})
    return await responder.respond(request, stream, cursor=after, wait=False, form=form)
