"""Turns the exceptions of the SDK and of aiohttp into `UpstreamError`. This is the only place that does so.

The SDK wraps an exception of our transport in APIConnectionError or APITimeoutError. aiohttp's own exception is the
`__cause__`, and says what happened.
"""

import re
import ssl
import time
from collections.abc import Mapping

import aiohttp
import openai
from aiohttp.http_exceptions import HttpProcessingError

from server.core.errors import Kind, UpstreamError
from server.core.recovery.classify import from_status
from server.upstreams.reasons import is_own, reason_of

EXHAUSTED_WAIT = 1.0  # seconds until the gateway may have a socket again
PASSED_ON = re.compile(r"(?i)x-ratelimit-[a-z0-9-]{1,64}|openai-processing-ms")
SANE_VALUE = re.compile(r"[ -~]{1,128}")
SANE_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
# Headers with the id of a request: OpenAI and most others; Anthropic; Azure; AWS; Cloudflare, which is before many.
REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "x-amzn-requestid", "cf-ray")
# The exceptions that an attempt can raise. Both libraries raise RuntimeError and ValueError for broken input. What
# aiohttp's parser raises is no ClientError.
FOREIGN = (openai.OpenAIError, aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError, ValueError)

Table = tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Kind, str], ...]
# The first row with the type of an exception counts. {the} becomes: the upstream "name".
NOT_HTTP = (BaseException, Kind.GARBAGE, "{the} sent something that is not HTTP")
BEFORE_BODY: Table = (
    (aiohttp.ClientConnectorDNSError, Kind.DNS, "the name of {the} could not be resolved"),
    (aiohttp.ClientConnectorCertificateError, Kind.TLS, "the certificate of {the} was refused"),
    ((aiohttp.ClientSSLError, ssl.SSLError), Kind.TLS, "TLS with {the} failed"),
    ((aiohttp.ServerTimeoutError, TimeoutError), Kind.CONNECT_TIMEOUT, "{the} could not be connected in time"),
    (aiohttp.ClientHttpProxyError, Kind.CONNECT, "the proxy of {the} made no tunnel"),
    (aiohttp.ClientProxyConnectionError, Kind.CONNECT, "the proxy of {the} could not be connected"),
    (aiohttp.ClientConnectorError, Kind.CONNECT, "{the} could not be connected"),
    ((aiohttp.ClientConnectionError, OSError), Kind.RESET, "{the} closed the connection without an answer"),
    NOT_HTTP,
)
IN_BODY: Table = (
    (
        (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError),
        Kind.CUT,
        "{the} cut the connection in the middle of the stream",
    ),
    NOT_HTTP,
)


def translate(error: Exception, *, in_body: bool, upstream: str | None = None) -> UpstreamError:
    """Return the error that an exception of the SDK, aiohttp or the socket means.

    `in_body` says whether the head of the response had come before. `upstream` is the upstream's configured name.
    """
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        retry_after = _retry_after(headers.get("retry-after-ms"), headers.get("retry-after"))
        failure = from_status(error.status_code, error.body, retry_after, time.time())
        failure.request_id = request_id(headers)
        return failure
    cause: BaseException = error
    while isinstance(cause, openai.OpenAIError) and cause.__cause__ is not None:
        cause = cause.__cause__
    kind, words, reason = _happened(cause, in_body=in_body)
    words = words.format(the=f'the upstream "{upstream}"' if upstream else "the upstream")
    message = f"{words[0].upper()}{words[1:]}{f': {reason}' if reason else ''}."
    return UpstreamError(kind, message, reason=reason, retry_after=EXHAUSTED_WAIT if kind is Kind.EXHAUSTED else None)


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the upstream's own id of a request, for its support, or None if it has none that is sane."""
    ids = (headers.get(name, "") for name in REQUEST_IDS)
    return next((one for one in ids if SANE_ID.fullmatch(one)), None)


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer that the client gets: the upstream's limits, and the time that it took.

    They are OpenAI's (https://platform.openai.com/docs/guides/rate-limits). Anything else stays with the gateway.
    """
    return {
        name.lower(): value
        for name, value in headers.items()
        if PASSED_ON.fullmatch(name) and SANE_VALUE.fullmatch(value)
    }


def _retry_after(milliseconds: str | None, seconds: str | None) -> str | None:
    """Return `Retry-After` in seconds. OpenAI's own header, in milliseconds, is preferred: it is finer."""
    try:
        return str(float(milliseconds) / 1000) if milliseconds else seconds
    except ValueError:
        return seconds


def _happened(cause: BaseException, *, in_body: bool) -> tuple[Kind, str, str | None]:
    """Return the kind of a failure, the words for it, and the reason that the system gave, if it gave one."""
    if in_body:
        return (*_row(IN_BODY, cause), None)
    system: BaseException = cause  # the exception of the system, or of TLS, that aiohttp's is about
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        system = cause.certificate_error
    elif isinstance(cause, aiohttp.ClientConnectorError):
        system = cause.os_error
    reason = reason_of(system)
    if is_own(system):
        return Kind.EXHAUSTED, "the gateway has no socket left for {the}", reason
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        reason = f"it answered with status {cause.status}"
    return (*_row(BEFORE_BODY, cause), reason)


def _row(table: Table, cause: BaseException) -> tuple[Kind, str]:
    return next((kind, words) for types, kind, words in table if isinstance(cause, types))
