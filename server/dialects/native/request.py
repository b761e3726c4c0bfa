"""Turns a request of the native protocol into a generation."""

import time
from typing import Any

from aiohttp import web

from server.api.errors import REQUEST_ID
from server.api.requests import passed_on, policy
from server.config.settings import Settings
from server.core.errors import Rejected
from server.core.generation import Generation
from server.core.openai.request import check_fields, invalid

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
        chat_body["model"] = only_model(settings)
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


def only_model(settings: Settings) -> str:
    """Return the configured model if there is only one, so that a request need not name it. Raises Rejected 400."""
    names = [model.name for model in settings.models if model.name != "*"]
    if len(names) != 1:
        raise invalid("model", f"one of {', '.join(names)}" if names else "a non-empty string")
    return names[0]
