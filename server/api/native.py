"""`POST /api/stream`: the native protocol. A prompt or messages begin a stream, a session's id resumes one."""

import time
from typing import Any

import orjson
from aiohttp import web

from server.api.access import OWNER
from server.api.errors import REQUEST_ID
from server.api.requests import (
    check_fields,
    idempotency_key,
    invalid,
    parse_cursor,
    policy,
    read_json,
    traces,
)
from server.api.respond import Responder
from server.api.streams import resume
from server.config.settings import Settings
from server.core.errors import Rejected
from server.core.generation import Generation
from server.streams.streams import Streams

RESUMING = frozenset({"session_id", "last_event_id"})


class Native:
    """The native path."""

    def __init__(self, streams: Streams, responder: Responder) -> None:
        self._streams = streams
        self._responder = responder

    def routes(self) -> list[web.RouteDef]:
        """Return what is served here."""
        return [web.post("/api/stream", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Begin a generation (or join the one of an `Idempotency-Key`), or resume a stream; answer with its events."""
        came = await self._responder.turn(request)
        settings = self._streams.settings
        body = await read_json(request, settings.server.max_body_bytes)
        if body.get("session_id") is not None:
            return await self._resume(request, body)
        if body.get("last_event_id"):  # a program that lost its session's id must not pay for a second answer
            raise Rejected(
                400, "A last_event_id resumes a stream; it needs a session_id.", "missing_value", "session_id"
            )
        generation = native_generation(request, body, settings, came)
        stream = await self._streams.create(generation, request[OWNER], idempotency_key(request))
        return await self._responder.respond(request, stream, wait=True, form="native")

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
        return await resume(request, stream, self._responder, after, "native")


def native_generation(request: web.Request, body: dict[str, Any], settings: Settings, came: float | None) -> Generation:
    """Return the generation that a native request asks for; it came in whole at `came`, or now. Raises Rejected 400."""
    sent = {name: value for name, value in body.items() if name not in RESUMING and name != "prompt"}
    sent["messages"] = messages_of(body)
    sent["stream"] = True
    if sent.get("model") is None:
        sent["model"] = only_model(settings)
    check_fields(sent)
    if (sent.get("n") or 1) > 1:
        raise invalid("n", "1: the native protocol has one answer")
    return Generation(
        form="native",
        model=sent["model"],
        body=sent,
        stream=True,
        policy=policy(request, settings),
        trace=traces(request),
        request_id=request[REQUEST_ID],
        received=came or time.monotonic(),
    )


def messages_of(body: dict[str, Any]) -> Any:
    """Return a request's messages; a prompt is the user's one. Raises Rejected 400."""
    prompt, messages = body.get("prompt"), body.get("messages")
    if prompt is None:
        if messages is None:
            raise Rejected(400, "Either 'prompt' or 'messages' is needed.", "missing_value", "prompt")
        return messages
    if messages is not None:
        raise Rejected(400, "Either 'prompt' or 'messages' is needed, not both.", "invalid_value", "prompt")
    if not isinstance(prompt, str) or not prompt:
        raise invalid("prompt", "a non-empty string")
    return [{"role": "user", "content": prompt}]


def only_model(settings: Settings) -> str:
    """Return the configured model where there is just one, so that a request need not name it. Raises Rejected 400."""
    names = [model.name for model in settings.models if model.name != "*"]
    if len(names) != 1:
        raise invalid("model", f"one of {', '.join(names)}" if names else "a non-empty string")
    return names[0]
