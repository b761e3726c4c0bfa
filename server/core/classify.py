"""What an upstream's own error means: from its HTTP status and body, or from an error event in its stream."""

import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

from server.core.errors import Kind, UpstreamError

CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
POLICY_CODES = frozenset({"content_policy_violation", "content_filter", "content_policy", "moderation_blocked"})
RATE_CODES = frozenset({"rate_limit_exceeded", "insufficient_quota", "rate_limit_error", "429"})
# Upstreams without a code for it say it in words (vLLM, llama.cpp, Anthropic).
CONTEXT_WORDS = ("maximum context length", "context size", "context window", "prompt is too long")


def from_status(status: int, body: object, retry_after: str | None) -> UpstreamError:
    """Return the error of an HTTP answer that is not 200. `body` is its parsed JSON, or anything."""
    detail = _detail(body)
    message, code = _text(detail, "message"), detail.get("code")
    if status in (401, 403):
        # The upstream's words may quote the gateway's key: they stay here.
        return UpstreamError(Kind.AUTH, "The upstream refused the gateway's credentials.", status=502)
    return UpstreamError(
        _kind(status, detail, message),
        message or f"The upstream answered with status {status}.",
        status=status if 400 <= status < 600 else 502,
        code=str(code) if code is not None else None,
        type=_text(detail, "type") or None,
        param=_text(detail, "param") or None,
        retry_after=parse_retry_after(retry_after),
    )


def in_band(chunk: dict[str, Any]) -> UpstreamError:
    """Return the error that an upstream sent as an event of a 200 stream."""
    detail = _detail(chunk)
    message, code = _text(detail, "message"), detail.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 0
    kind = _kind(status, detail, message) if status else _kind_of_words(detail, message) or Kind.IN_BAND
    if kind is Kind.AUTH:
        return UpstreamError(Kind.AUTH, "The upstream refused the gateway's credentials.", status=502)
    return UpstreamError(
        kind,
        message or "The upstream reported an error.",
        code=str(code) if code is not None else None,
        type=_text(detail, "type") or None,
        param=_text(detail, "param") or None,
    )


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, in either form of RFC 9110 section 10.2.3."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _detail(body: object) -> dict[str, Any]:
    """Return the innermost error object of the shapes in use: OpenAI's, FastAPI's, a bare one, a string."""
    if not isinstance(body, dict):
        return {"message": body} if isinstance(body, str) else {}
    error = body.get("error", body)
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return {"message": body.get("message") or body.get("detail")}
    return error if "message" in error else {**error, "message": error.get("detail")}


def _text(detail: dict[str, Any], name: str) -> str:
    value = detail.get(name)
    return value if isinstance(value, str) else ""


def _kind(status: int, detail: dict[str, Any], message: str) -> Kind:
    if status in (401, 403):
        return Kind.AUTH
    if status == 429:
        return Kind.RATE_LIMIT
    if status == 408:
        return Kind.REQUEST_TIMEOUT
    if status == 409:
        return Kind.CONFLICT
    if words := _kind_of_words(detail, message):
        return words
    return Kind.BAD_REQUEST if 400 <= status < 500 else Kind.OVERLOADED


def _kind_of_words(detail: dict[str, Any], message: str) -> Kind | None:
    names = {str(detail.get("code")).lower(), str(detail.get("type")).lower()}
    lowered = message.lower()
    if names & CONTEXT_CODES or any(words in lowered for words in CONTEXT_WORDS):
        return Kind.CONTEXT_LENGTH
    if names & POLICY_CODES:
        return Kind.CONTENT_POLICY
    return Kind.RATE_LIMIT if names & RATE_CODES else None
