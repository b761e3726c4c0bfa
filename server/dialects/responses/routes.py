"""`POST /v1/responses`: from a request to a generation, and the answer with its stream or with its resource."""

import time
from typing import Any

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import REQUEST_ID
from server.api.requests import idempotency_key, passed_on, policy, read_json
from server.api.respond import Responder
from server.config.settings import Settings
from server.core.body import Body
from server.core.dialect import Dialect
from server.core.generation import Generation, logged_request
from server.core.records import Beginning
from server.dialects.responses.earlier import Earlier
from server.dialects.responses.events import API
from server.dialects.responses.request import EARLIER, chat_body
from server.dialects.responses.stored import StoredResponses, kept
from server.streams.streams import Streams


def generation_of(
    request: web.Request, source: dict[str, Any], settings: Settings, received: float | None = None
) -> Generation:
    """Return the generation that a request asks for. It always is a stream, which can be recovered.

    `received` is the time.monotonic() when the whole request was in; None: now.

    Raises:
        Rejected: 400, the request is malformed, or an upstream of its model cannot be told what it says.

    """
    translation = chat_body(source)
    if translation.refusal is not None and not apis(settings, source["model"]) <= {API}:
        raise translation.refusal
    return Generation(
        dialect=API,
        model=source["model"],
        body=translation.body,
        stream=True,
        policy=policy(request, settings),
        trace=passed_on(request),
        request_id=request[REQUEST_ID],
        received=received or time.monotonic(),
        source=Body(source),
    )


def apis(settings: Settings, name: str) -> set[str]:
    """Return what the upstreams of a model speak. Empty if there is no such model."""
    model = settings.resolve(name)
    names = {target.upstream for target in model.targets} if model is not None else set()
    return {upstream.api for upstream in settings.upstreams if upstream.name in names}


def logged(beginning: Beginning) -> Generation:
    """Rebuild the generation of a stream from its log."""
    source, changed = logged_request(beginning)
    body = chat_body(source).body if changed is None else changed
    headers = (("x-request-id", beginning.request_id),) if beginning.request_id else ()
    return Generation(
        dialect=beginning.dialect,
        model=beginning.model,
        body=body,
        stream=True,
        policy=beginning.policy,
        trace=headers,
        request_id=beginning.request_id,
        source=source,
        changed=changed is not None,
    )


class ResponsesPath:
    """The path that begins responses."""

    def __init__(self, dialect: Dialect, streams: Streams, responder: Responder, stored: StoredResponses) -> None:
        self._stored = stored
        self._dialect = dialect
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of this path."""
        return [web.post("/v1/responses", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a response, or join the one with the same `Idempotency-Key`."""
        received = await self._responder.wait_to_start(request)
        settings = self._streams.settings
        source = await read_json(request, settings.server.max_body_bytes)
        source.pop(EARLIER, None)  # it is the gateway's own
        await Earlier(self._streams, request[OWNER]).recall(source)
        generation = kept(generation_of(request, source, settings, received), source, settings)
        whole = not source.get("stream")
        del source  # the generation has it as bytes; as objects it would be in memory as long as the response
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        if generation.detached and whole:
            return await self._stored.answer(request, stream)
        wait = not generation.detached
        return await self._responder.respond(request, stream, wait=wait, dialect=self._dialect, whole=whole)
