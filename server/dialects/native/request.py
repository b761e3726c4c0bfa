"""From a request of the native protocol to a generation."""

import time
from typing import Any

from aiohttp import web

from server.api.errors import REQUEST_ID
from server.api.requests import passed_on, policy
from server.config.settings import Settings
from server.core.errors import Rejected
from server.core.generation import Generation
from server.core.openai.request import check_fields, invalid

RESUMING = frozenset({"session_id", "last_event_id"})


def native_generation(
    request: web.Request, body: dict[str, Any], settings: Settings, received: float | None
) -> Generation:
    """Return the generation that a request asks for. Raises Rejected 400.

    `received` is the time.monotonic() at which the request had come in whole; None: now.
    """
    sent = {name: value for name, value in body.items() if name not in RESUMING and name != "prompt"}
    sent["messages"] = messages_of(body)
    sent["stream"] = True
    if sent.get("model") is None:
        sent["model"] = only_model(settings)
    check_fields(sent)
    if (sent.get("n") or 1) > 1:
        raise invalid("n", "1: the native protocol has one answer")
    return Generation(
        dialect="native",
        model=sent["model"],
        body=sent,
        stream=True,
        policy=policy(request, settings),
        trace=passed_on(request),
        request_id=request[REQUEST_ID],
        received=received or time.monotonic(),
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
