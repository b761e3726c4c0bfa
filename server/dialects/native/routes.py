"""`POST /api/stream`: the native protocol. A prompt or messages begin a stream. A session's id resumes one."""

from typing import Any

import orjson
from aiohttp import web

from server.api.access import OWNER
from server.api.requests import idempotency_key, parse_cursor, read_json
from server.api.respond import Responder
from server.core.dialect import Dialect
from server.core.errors import Rejected
from server.core.openai.request import invalid
from server.dialects.native.request import messages_of, native_generation
from server.streams.streams import Streams


class NativePath:
    """The path of the native protocol."""

    def __init__(self, dialect: Dialect, streams: Streams, responder: Responder) -> None:
        self._dialect = dialect
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of this path."""
        return [web.post("/api/stream", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a generation, or join the one with the same `Idempotency-Key`, or resume a stream.

        The answer is the events of that stream.
        """
        received = await self._responder.wait_to_start(request)
        settings = self._streams.settings
        body = await read_json(request, settings.server.max_body_bytes)
        if body.get("session_id") is not None:
            return await self._resume(request, body)
        if body.get("last_event_id"):  # the client lost its session's id: it must not pay for a second answer
            raise Rejected(
                400, "A last_event_id resumes a stream; it needs a session_id.", "missing_value", "session_id"
            )
        generation = native_generation(request, body, settings, received)
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        return await self._responder.respond(request, stream, wait=True, dialect=self._dialect)

    async def _resume(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        session = body["session_id"]
        if not isinstance(session, str):
            raise invalid("session_id", "the id of a stream")
        stream = await self._streams.find(session, request[OWNER])
        # With [preprocess] the log has the changed messages, so the client's cannot be compared with them.
        if not self._streams.preprocessing and ("prompt" in body or "messages" in body):
            # A client may repeat its first request with the session's id. Other messages would be ignored.
            first_messages = orjson.loads(stream.beginning.body).get("messages")
            if messages_of(body) != first_messages:
                words = "A session_id resumes a stream; another prompt needs a request of its own."
                raise Rejected(400, words, "invalid_value", "session_id")
        name, value = "Last-Event-ID", request.headers.get("Last-Event-ID")
        if value is None:
            name, value = "last_event_id", body.get("last_event_id")
        after = parse_cursor(name, value)
        return await self._responder.resume(request, stream, after, self._dialect)
