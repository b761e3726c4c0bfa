"""`POST /api/stream`: from a request to a generation, or back to a stream that it resumes."""

import time
from typing import Any

import orjson
from aiohttp import web

from server.api.access import OWNER
from server.api.errors import REQUEST_ID
from server.api.requests import idempotency_key, parse_cursor, passed_on, policy, read_json
from server.api.respond import Responder
from server.config.settings import Settings
from server.core.dialect import Dialect
from server.core.errors import Rejected
from server.core.generation import Generation
from server.core.openai.request import check_fields, invalid
from server.streams.admission import Owner
from server.streams.streams import Streams

RESUME_FIELDS = frozenset({"session_id", "last_event_id"})


def native_generation(
    request: web.Request, body: dict[str, Any], settings: Settings, received: float | None
) -> Generation:
    """Return the generation that a request asks for. Raises Rejected 400.

    `received` is the time.monotonic() when the whole request was in; None: now.
    """
    chat_body = {name: value for name, value in body.items() if name not in RESUME_FIELDS and name != "prompt"}
    chat_body["messages"] = messages_of(body)
    chat_body["stream"] = True
    if chat_body.get("model") is None:
        chat_body["model"] = only_model(settings, request[OWNER])
    check_fields(chat_body)
    if (chat_body.get("n") or 1) > 1:
        raise invalid("n", "1: the native protocol has one answer")
    return Generation(
        dialect="native",
        model=chat_body["model"],
        body=chat_body,
        stream=True,
        policy=policy(request, settings),
        trace=passed_on(request),
        request_id=request[REQUEST_ID],
        received=received or time.monotonic(),
    )


def messages_of(body: dict[str, Any]) -> Any:
    """Return a request's messages. A prompt becomes the only message, the user's. Raises Rejected 400."""
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


def only_model(settings: Settings, owner: Owner) -> str:
    """Return the caller's model if there is only one, so that a request need not name it. Raises Rejected 400."""
    names = [model.name for model in settings.models if model.name != "*" and owner.may_ask(model.name)]
    if len(names) != 1:
        raise invalid("model", f"one of {', '.join(names)}" if names else "a non-empty string")
    return names[0]


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
        del body  # as objects it takes up to twenty times its size, and the response may take an hour
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
