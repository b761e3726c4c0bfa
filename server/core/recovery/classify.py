"""Classifies an upstream's own errors, by HTTP status and body, or by an error event in the stream."""

import math
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime

from server.core.errors import Kind, UpstreamError
from server.core.recovery.bodies import ErrorBody, read
from server.core.recovery.statuses import meaning
from server.core.recovery.wording import kinds_in_words

# Seconds. No stream waits longer, and no SDK does (OpenAI's takes one minute at most). A client that adds 10^20 to its
# clock fails. A client that comes back too early, because the quota lasts until tomorrow, is told the same again.
MAX_RETRY_AFTER = 3600.0


def from_status(status: int, body: object, retry_after: str | None, now: float) -> UpstreamError:
    """Return the error of an HTTP answer that is not 200, with all that the upstream says (`present` cuts it).

    `body` is its parsed JSON, or its text, or anything. `retry_after` is its `Retry-After` header. `now` is the time
    of the answer in seconds since 1970: the header may hold a date.
    """
    error = read(body)
    return _error(
        _kind(status, error),
        error,
        f"The upstream answered with status {status}.",
        status=status if 400 <= status < 600 else 502,
        retry_after=parse_retry_after(retry_after or _retry_delay(error), now),
    )


def in_band(chunk: object) -> UpstreamError:
    """Return the error that an upstream sent as an event of a 200 stream: parsed JSON, or a text."""
    error = read(chunk)
    status = int(error.code) if error.code.isdecimal() and len(error.code) == 3 and error.code[0] in "45" else 0
    kind = _kind(status, error) if status else next(_kinds_of_words(error), Kind.IN_BAND)
    return _error(kind, error, "The upstream reported an error.")


def _error(
    kind: Kind, error: ErrorBody, words: str, *, status: int | None = None, retry_after: float | None = None
) -> UpstreamError:
    if kind is Kind.AUTH:
        # The upstream's message may quote the gateway's key, so no client gets it.
        return UpstreamError(Kind.AUTH, "The upstream refused the gateway's credentials.", status=502)
    return UpstreamError(
        kind,
        error.message or words,
        status=status,
        code=error.code or None,
        type=error.type or None,
        param=error.param or None,
        retry_after=retry_after,
        places=error.places,
    )


def refuses_usage(error: UpstreamError) -> bool:
    """Whether an upstream refused `stream_options`, which the gateway adds to ask for usage.

    So do Mistral's validation (openai/openai-agents-python#442), Azure's older API versions and its "on your data"
    (openai/openai-python#2296), Databricks before Bedrock (anomalyco/opencode#4698), Anthropic's own API and Gemini
    ("Unknown name"). Each names the field; what else they say differs.
    """
    refused = error.status is not None and error.kind in (Kind.BAD_REQUEST, Kind.REFUSED, Kind.OVERLOADED)
    words = f"{error.message} {error.param}"
    return refused and ("stream_options" in words or "include_usage" in words)


def refuses_background(error: UpstreamError) -> bool:
    """Whether an upstream refused `background`, which not every server has that speaks Responses."""
    refused = error.status is not None and error.kind in (Kind.BAD_REQUEST, Kind.REFUSED)
    return refused and "background" in f"{error.message} {error.param}".lower()


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, in either form of RFC 9110 section 10.2.3.

    `now` is in seconds since 1970. A date that is over gives 0. A value of neither form gives None. Nothing is longer
    than `MAX_RETRY_AFTER`.
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
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def _retry_delay(error: ErrorBody) -> str | None:
    """Return the wait of Google's `RetryInfo` ("17s"): Gemini sends no `Retry-After`."""
    details = error.places.get("details")
    for item in details if isinstance(details, list) else ():
        if isinstance(item, dict) and isinstance(item.get("retryDelay"), str):
            return str(item["retryDelay"]).removesuffix("s")
    return None


def _kind(status: int, error: ErrorBody) -> Kind:
    kind, unless = meaning(status)
    if error.page and status == 403:
        return Kind.REFUSED  # a firewall on the way: the API has not seen the key
    return next((word for word in _kinds_of_words(error) if word in unless), kind)


def _kinds_of_words(error: ErrorBody) -> Iterator[Kind]:
    if "string_above_max_length" in error.names and error.param.startswith(("messages", "input")):
        yield Kind.CONTEXT_LENGTH  # OpenAI says so of a user's name as well
    yield from kinds_in_words(error.names, error.message)
