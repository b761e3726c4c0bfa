"""Turns a chat completion request into a generation."""

import time
from typing import Any

from aiohttp import web

from server.api.errors import REQUEST_ID
from server.api.requests import passed_on, policy
from server.config.settings import Settings
from server.core.generation import Generation, asks_usage
from server.core.openai.request import check_fields


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
