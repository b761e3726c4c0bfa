"""Errors in Anthropic's shape, with its types.

Source: https://platform.claude.com/docs/en/api/errors.
"""

from collections.abc import Mapping
from typing import Any

from server.core.records import Record
from server.dialects.messages.events import ERROR, event

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OWN = frozenset({*TYPES.values(), "api_error"})  # an upstream that speaks Messages has chosen one itself


def type_of(error: Mapping[str, Any], status: int) -> str:
    """Return the type of an error: an upstream's own if it is Anthropic's, else that of the HTTP status."""
    given = error.get("type")
    # OpenAI says `invalid_request_error` of every status below 500. So only its other types tell more than the status.
    if given in OWN and given not in ("invalid_request_error", "api_error"):
        return str(given)
    return TYPES.get(status, "invalid_request_error" if 400 <= status < 499 else "api_error")


def error_answer(body: Mapping[str, Any], status: int, request_id: str) -> dict[str, Any]:
    """Return the JSON of an error. `body` is OpenAI's error object.

    Beside what Anthropic's has, the code and the upstream stay: they say who failed, and clients pass over them.
    """
    error = body["error"]
    shown: dict[str, Any] = {"type": type_of(error, status), "message": error["message"]}
    shown |= {name: error[name] for name in ("code", "upstream") if error.get(name)}
    answer: dict[str, Any] = {"type": "error", "error": shown}
    return answer | ({"request_id": request_id} if request_id else {})


def error_event(body: Mapping[str, Any], status: int, request_id: str) -> Record:
    """Return the event that ends a failed stream."""
    return event(
        ERROR, **{name: value for name, value in error_answer(body, status, request_id).items() if name != "type"}
    )
