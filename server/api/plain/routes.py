"""The plain paths: from a request to an exchange with a target. No stream, no log, one line at the end."""

import itertools
import re
import time
from contextlib import AsyncExitStack

from aiohttp import web

from server.api.access import OWNER
from server.api.errors import REQUEST_ID
from server.api.plain.attempts import Asking, Attempts
from server.api.plain.exchange import Exchange
from server.api.plain.kept import Files, Kept
from server.api.plain.multipart import boundary_of
from server.api.plain.outgoing import JsonBody, Outgoing, Upload
from server.api.plain.paths import DEFAULT_MODELS, ROUTES
from server.api.requests import BODIES, passed_on, read_json, too_large
from server.config.settings import Flow
from server.core.body import Body
from server.core.openai.request import MODEL, invalid
from server.core.ports import Strategy
from server.core.records import key_name
from server.streams.admission import Owner
from server.streams.streams import Streams
from server.telemetry.metrics import Metrics

MAX_VALUES = 500_000  # of JSON: OpenAI takes 300,000 tokens in one request for embeddings, and clients send numbers
ON_DISK = 8  # times the largest upload is the bound of all temporary files together
_numbers = itertools.count()
ACCEPTED = re.compile(r"[ -~]{1,256}")


class PlainPaths:
    """Answers them."""

    def __init__(self, streams: Streams, strategy: Strategy, flow: Flow, metrics: Metrics) -> None:
        self._streams = streams
        self._strategy = strategy
        self._flow = flow
        self._metrics = metrics
        self.files = Files(ON_DISK * streams.settings.server.max_upload_bytes)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.post(path, self.relay) for path in ROUTES]

    def close(self) -> None:
        """End what reads and writes temporary files."""
        self.files.close()

    async def relay(self, request: web.Request) -> web.StreamResponse:
        """Relay a request to the first target of its model that answers, and the answer to the client.

        Raises Rejected: the request is wrong, over a limit, or for an unknown model.
        """
        started, owner, settings = time.monotonic(), request[OWNER], self._streams.settings
        await self._streams.start_pacer.take()
        async with AsyncExitStack() as stack:
            stack.enter_context(self._streams.plain(owner))
            outgoing = await self._outgoing(request, owner, stack)
            model = self._model(request, outgoing)
            self._streams.check_model(model, owner)
            route = stack.enter_context(self._streams.route(model))
            asking = Asking(
                id=f"plain_{next(_numbers)}",
                request_id=request[REQUEST_ID],
                owner=owner.name,
                path=request.path.removeprefix("/v1"),
                headers=_headers(request),
                ends=started + settings.streams.total_timeout,
            )
            attempts = Attempts(asking, outgoing, route, self._strategy, settings.recovery, self._metrics)
            exchange = Exchange(request, outgoing, attempts, self._flow)
            try:
                return await exchange.run()
            finally:
                name, served = key_name(owner.name), route[0].served.name
                exchange.account(owner=name, model=model, served=served)
                self._metrics.count_request(_resource(request), exchange.outcome, time.monotonic() - started)
                if exchange.outcome in ("stalled", "gone"):
                    self._metrics.disconnects.labels(exchange.outcome).inc()
                if exchange.tokens is not None:
                    self._metrics.count_usage(name, served, exchange.tokens)

    def _model(self, request: web.Request, outgoing: Outgoing) -> str:
        """Return the name of the model that is asked for. Raises Rejected 400."""
        model, default = outgoing.model, DEFAULT_MODELS.get(_resource(request))
        # Where no upstream may choose a model by itself, a request for "" would be told that there is no model ``.
        if model is None and default is not None and (default or self._streams.settings.resolve("")):
            return default
        if not isinstance(model, str) or not MODEL.fullmatch(model):
            raise invalid("model", "a string of 1 to 256 characters, none of them a control character")
        return model

    async def _outgoing(self, request: web.Request, owner: Owner, stack: AsyncExitStack) -> Outgoing:
        """Return the body: JSON, or an upload that has been read to its model. Raises Rejected."""
        server = self._streams.settings.server
        bodies = request.app[BODIES]
        if request.content_type != "multipart/form-data":
            body = Body(await read_json(request, server.max_body_bytes, MAX_VALUES))
            stack.enter_context(bodies.held(owner.name, len(body.data)))
            return JsonBody(body)
        if (request.content_length or 0) > server.max_upload_bytes:
            raise too_large(server.max_upload_bytes)
        boundary = boundary_of(request.headers["Content-Type"])
        kept = stack.enter_context(Kept.of(bodies, owner.name, self.files))
        upload = Upload(request, boundary, kept, server.max_upload_bytes)
        stack.push_async_callback(upload.close)
        await upload.begin()
        return upload


def _resource(request: web.Request) -> str:
    resource = request.match_info.route.resource
    assert resource is not None
    return resource.canonical


def _headers(request: web.Request) -> dict[str, str]:
    """Return the headers for the upstream."""
    headers = {name.lower(): value for name, value in passed_on(request)}
    accept = request.headers.get("Accept", "")
    return {**headers, "accept": accept if ACCEPTED.fullmatch(accept) else "*/*"}
