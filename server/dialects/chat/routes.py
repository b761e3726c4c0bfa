"""`POST /v1/chat/completions`: from a request to a generation, and the answer with its stream."""

import time
from typing import Any

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import REQUEST_ID
from server.api.requests import idempotency_key, passed_on, policy, read_json
from server.api.respond import Responder
from server.config.settings import Settings
from server.core.dialect import Dialect
from server.core.generation import Generation, asks_usage
from server.core.openai.request import check_fields
from server.streams.streams import Streams


def completion(
    request: web.Request, body: dict[str, Any], settings: Settings, received: float | None = None
) -> Generation:
    """Return the generation that a request asks for. Raises Rejected 400.

    `received` is the time.monotonic() when the whole request was in; None: now.
    """
    check_fields(body)
    return Generation(
        dialect="chat",
        model=body["model"],
        body=body,
        stream=bool(body.get("stream")),
        policy=policy(request, settings),
        choices=body.get("n") or 1,
        show_usage=asks_usage(body),
        trace=passed_on(request),
        request_id=request[REQUEST_ID],
        received=received or time.monotonic(),
    )


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
        del body  # the generation has it as bytes; as objects it would be in memory as long as the response
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        return await self._responder.respond(request, stream, wait=True, dialect=self._dialect)
