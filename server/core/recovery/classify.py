"""Classifies an upstream's own errors, by HTTP status and body, or by an error event in the stream."""

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from server.core.errors import Kind, UpstreamError

AUTH_CODES = frozenset({"invalid_api_key", "authentication_error", "permission_error", "api_key_invalid"})
CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
POLICY_CODES = frozenset({"content_policy_violation", "content_filter", "content_policy", "moderation_blocked"})
RATE_CODES = frozenset({"rate_limit_exceeded", "insufficient_quota", "rate_limit_error", "429"})
STATUS_KINDS = {
    401: Kind.AUTH,
    403: Kind.AUTH,
    408: Kind.REQUEST_TIMEOUT,
    409: Kind.CONFLICT,
    429: Kind.RATE_LIMIT,
}
MAX_MESSAGE = 2000  # characters of an upstream's message that a client gets
# Some upstreams have no code for it, and only say it in their message (vLLM, llama.cpp, Anthropic).
CONTEXT_WORDS = ("maximum context length", "context size", "context window", "prompt is too long")


def from_status(status: int, body: object, retry_after: str | None, now: float) -> UpstreamError:
    """Return the error of an HTTP answer that is not 200.

    `body` is its parsed JSON, or its text, or anything. `retry_after` is its `Retry-After` header. `now` is the time
    of the answer in seconds since 1970: the header may hold a date.
    """
    detail = _detail(body)
    return _error(
        _kind(status, detail),
        detail,
        f"The upstream answered with status {status}.",
        status=status if 400 <= status < 600 else 502,
        retry_after=parse_retry_after(retry_after, now),
    )


def in_band(chunk: object) -> UpstreamError:
    """Return the error that an upstream sent as an event of a 200 stream: parsed JSON, or a text."""
    detail = _detail(chunk)
    code = detail.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 0
    kind = _kind(status, detail) if status else _kind_of_words(detail) or Kind.IN_BAND
    return _error(kind, detail, "The upstream reported an error.")


def _error(
    kind: Kind, detail: dict[str, Any], words: str, *, status: int | None = None, retry_after: float | None = None
) -> UpstreamError:
    if kind is Kind.AUTH:
        # The upstream's message may quote the gateway's key, so no client gets it.
        return UpstreamError(Kind.AUTH, "The upstream refused the gateway's credentials.", status=502)
    code = detail.get("code")
    return UpstreamError(
        kind,
        _text(detail, "message")[:MAX_MESSAGE] or words,
        status=status,
        code=str(code) if isinstance(code, int) else _text(detail, "code") or None,
        type=_text(detail, "type") or None,
        param=_text(detail, "param") or None,
        retry_after=retry_after,
    )


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, in either form of RFC 9110 section 10.2.3.

    `now` is in seconds since 1970. A date that is over gives 0. A value of neither form gives None.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
            # The obsolete asctime form names no zone: it is GMT like the others.
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _detail(body: object) -> dict[str, Any]:
    """Return the innermost error object. The shapes in use are OpenAI's, FastAPI's, a bare object and a text."""
    if isinstance(body, str):
        return {} if body.lstrip().startswith("<") else {"message": body}  # a proxy's HTML page has no message
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        error = {"message": body.get("message")}
    return error if error.get("message") else {**error, "message": _fastapi(body.get("detail") or error.get("detail"))}


def _fastapi(detail: object) -> object:
    """Return the message of FastAPI's `detail`, which is a text or a list of validation errors."""
    if not isinstance(detail, list):
        return detail
    return "; ".join(str(item["msg"]) for item in detail if isinstance(item, dict) and "msg" in item)


def _text(detail: dict[str, Any], name: str) -> str:
    value = detail.get(name)
    # The SDK's JSON parser lets half a surrogate pair through, and UTF-8 cannot encode that.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _kind(status: int, detail: dict[str, Any]) -> Kind:
    if kind := STATUS_KINDS.get(status):
        return kind
    if kind_in_words := _kind_of_words(detail):
        return kind_in_words
    if status in (402, 404, 410):
        return Kind.REFUSED
    return Kind.BAD_REQUEST if 400 <= status < 500 else Kind.OVERLOADED


def _kind_of_words(detail: dict[str, Any]) -> Kind | None:
    names = {str(detail.get("code")).lower(), str(detail.get("type")).lower()}
    lowered = _text(detail, "message").lower()
    if names & AUTH_CODES:
        return Kind.AUTH
    if names & CONTEXT_CODES or any(words in lowered for words in CONTEXT_WORDS):
        return Kind.CONTEXT_LENGTH
    if names & POLICY_CODES:
        return Kind.CONTENT_POLICY
    return Kind.RATE_LIMIT if names & RATE_CODES else None
