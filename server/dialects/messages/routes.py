"""`POST /v1/messages`: from a request to a generation, and the answer with its stream."""

import re
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import REQUEST_ID, json_response
from server.api.requests import idempotency_key, passed_on, policy, read_json
from server.api.respond import Responder
from server.core.body import Body
from server.core.dialect import Dialect
from server.core.errors import Rejected
from server.dialects.messages.counting import counted
from server.dialects.messages.fields import Unsaid, pass_over, refuse
from server.dialects.messages.generation import BETA_HEADER, generation_of
from server.dialects.messages.request import chat_body
from server.dialects.messages.upstream import NAME, VERSION
from server.dialects.messages.usage import estimated_input
from server.streams.streams import Streams

SANE = re.compile(r"[ -~]{1,1024}")  # what a header may hold on its way upstream
ESTIMATED = {"X-Sluiceway-Estimated": "true"}


class MessagesPaths:
    """Anthropic's paths for messages."""

    def __init__(self, dialect: Dialect, streams: Streams, responder: Responder) -> None:
        self._dialect = dialect
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of these paths."""
        return [web.post("/v1/messages", self.create), web.post("/v1/messages/count_tokens", self.count)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a generation, or join the one with the same `Idempotency-Key`, and answer with its stream."""
        received = await self._responder.wait_to_start(request)
        settings = self._streams.settings
        source = await read_json(request, settings.server.max_body_bytes)
        generation = generation_of(
            source,
            self._unsaid(source),
            policy(request, settings),
            headers=upstream_headers(request),
            request_id=request[REQUEST_ID],
            trace=passed_on(request),
            received=received or time.monotonic(),
        )
        del source  # the generation has it as bytes; as objects it would be in memory as long as the response
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        return await self._responder.respond(request, stream, wait=True, dialect=self._dialect)

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Return how many tokens a prompt has: the upstream's count if it speaks Messages, or an estimate."""
        settings = self._streams.settings
        source = await read_json(request, settings.server.max_body_bytes)
        body = chat_body(source, pass_over, counting=True)
        self._streams.check_model(body["model"], request[OWNER])
        count = await self._counted(Body(source), body["model"], upstream_headers(request))
        if count is not None:
            return json_response({"input_tokens": count})
        return json_response({"input_tokens": estimated_input(body)}, headers=ESTIMATED)

    async def _counted(self, source: Body, name: str, headers: Mapping[str, str]) -> int | None:
        upstreams, model = self._streams.upstreams, self._streams.settings.resolve(name)
        assert model is not None  # it was checked in this turn
        route = upstreams.route(model, name)
        upstreams.hold(route)
        try:
            return await counted(source, route, headers)
        finally:
            upstreams.release(route)

    def _unsaid(self, source: Mapping[str, Any]) -> Unsaid:
        """Return what to do about what no chat upstream can be told: pass it over if all upstreams speak Messages."""
        name, settings = source.get("model"), self._streams.settings
        model = settings.resolve(name) if isinstance(name, str) else None
        if model is None:
            return refuse
        apis = {settings.upstream(target.upstream).api for target in model.targets}
        return pass_over if apis == {NAME} else refuse


def upstream_headers(request: web.Request) -> dict[str, str]:
    """Return the headers for an upstream that speaks Messages: the client's own version and betas.

    Raises Rejected 400 if one cannot be passed on.
    """
    headers = {"anthropic-version": VERSION}
    for name in ("anthropic-version", BETA_HEADER):
        if values := request.headers.getall(name, []):
            headers[name] = ",".join(values)
            if not SANE.fullmatch(headers[name]):
                raise Rejected(400, f"{name}: at most 1,024 visible ASCII characters.", "invalid_value", name)
    return headers
