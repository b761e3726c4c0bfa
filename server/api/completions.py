"""`POST /v1/chat/completions` and `GET /v1/models` (https://platform.openai.com/docs/api-reference/chat)."""

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import json_response
from server.api.requests import completion, idempotency_key, read_json
from server.api.respond import Responder
from server.streams.streams import Streams


class Completions:
    """OpenAI's own paths."""

    def __init__(self, streams: Streams, responder: Responder) -> None:
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return what is served here."""
        return [web.post("/v1/chat/completions", self.create), web.get("/v1/models", self.models, allow_head=False)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a generation, or join the one that an `Idempotency-Key` began, and answer with it."""
        came = await self._responder.turn(request)
        settings = self._streams.settings
        body = await read_json(request, settings.server.max_body_bytes)
        generation = completion(request, body, settings, came)
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        return await self._responder.respond(request, stream, wait=True)

    async def models(self, request: web.Request) -> web.StreamResponse:  # noqa: ARG002 — aiohttp's handler signature
        """Return the configured names."""
        names = [model.name for model in self._streams.settings.models]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "sluiceway"} for name in names]
        return json_response({"object": "list", "data": data})
