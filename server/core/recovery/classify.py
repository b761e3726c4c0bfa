"""Classifies an upstream's own errors, by HTTP status and body, or by an error event in the stream."""

import math
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.recovery.statuses import meaning
from server.core.recovery.wording import kinds_in_words

MAX_MESSAGE = 2000  # characters of an upstream's message that a client gets


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
    kind = _kind(status, detail) if status else next(_kinds_of_words(detail), Kind.IN_BAND)
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
    kind, unless = meaning(status)
    return next((word for word in _kinds_of_words(detail) if word in unless), kind)


def _kinds_of_words(detail: dict[str, Any]) -> Iterator[Kind]:
    names = frozenset(str(detail.get(name)).lower() for name in ("code", "type"))
    if "string_above_max_length" in names and _text(detail, "param").startswith(("messages", "input")):
        yield Kind.CONTEXT_LENGTH  # OpenAI says so of a user's name as well
    yield from kinds_in_words(names, _text(detail, "message"))
