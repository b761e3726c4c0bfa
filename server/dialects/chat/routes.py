"""`POST /v1/chat/completions`."""

from aiohttp import web

from server.api.access import OWNER
from server.api.requests import idempotency_key, read_json
from server.api.respond import Responder
from server.core.dialect import Dialect
from server.dialects.chat.request import completion
from server.streams.streams import Streams


class Completions:
    """OpenAI's path for chat completions."""

    def __init__(self, dialect: Dialect, streams: Streams, responder: Responder) -> None:
        self._dialect = dialect
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of this path."""
        return [web.post("/v1/chat/completions", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a generation, or join the one with the same `Idempotency-Key`, and answer with its stream."""
        received = await self._responder.wait_to_start(request)
        settings = self._streams.settings
        body = await read_json(request, settings.server.max_body_bytes)
        generation = completion(request, body, settings, received)
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        return await self._responder.respond(request, stream, wait=True, dialect=self._dialect)
