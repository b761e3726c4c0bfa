"""`POST /api/stream`: the native protocol. A prompt or messages begin a stream, a session's id resumes one."""

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
    """The native path."""

    def __init__(self, dialect: Dialect, streams: Streams, responder: Responder) -> None:
        self._dialect = dialect
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return what is served here."""
        return [web.post("/api/stream", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a generation (or join the one of an `Idempotency-Key`), or resume a stream; answer with its events."""
        received = await self._responder.wait_to_start(request)
        settings = self._streams.settings
        body = await read_json(request, settings.server.max_body_bytes)
        if body.get("session_id") is not None:
            return await self._resume(request, body)
        if body.get("last_event_id"):  # a program that lost its session's id must not pay for a second answer
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
        # With [preprocess] the log has other words than the client's: there is nothing to compare them with.
        if not self._streams.preprocessing and ("prompt" in body or "messages" in body):
            asked = orjson.loads(stream.beginning.body).get("messages")
            if messages_of(body) != asked:  # a client that adds the session to its first request means no other one
                words = "A session_id resumes a stream; another prompt needs a request of its own."
                raise Rejected(400, words, "invalid_value", "session_id")
        name, given = "Last-Event-ID", request.headers.get("Last-Event-ID")
        if given is None:
            name, given = "last_event_id", body.get("last_event_id")
        after = parse_cursor(name, given)
        return await self._responder.resume(request, stream, after, self._dialect)
