"""Turns the exceptions of the SDK and of aiohttp into `UpstreamError`. This is the only place that does so.

The SDK wraps an exception of our transport in APIConnectionError or APITimeoutError. aiohttp's own exception is the
`__cause__`, and says what happened.
"""

import ssl
import time

import aiohttp
import openai

from server.core.errors import Kind, UpstreamError
from server.core.recovery.classify import from_status

# The exceptions that an attempt can raise. Both libraries raise RuntimeError and ValueError for broken input.
FOREIGN = (openai.OpenAIError, aiohttp.ClientError, OSError, RuntimeError, ValueError)


def translate(error: Exception, *, in_body: bool) -> UpstreamError:
    """Return the error that an exception of the SDK, aiohttp or the socket means.

    `in_body` says whether the head of the response had come before.
    """
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        retry_after = _retry_after(headers.get("retry-after-ms"), headers.get("retry-after"))
        return from_status(error.status_code, error.body, retry_after, time.time())
    cause: BaseException = error
    while isinstance(cause, openai.OpenAIError) and cause.__cause__ is not None:
        cause = cause.__cause__
    kind, words = _kind(cause, in_body=in_body)
    return UpstreamError(kind, words)


def _retry_after(milliseconds: str | None, seconds: str | None) -> str | None:
    """Return `Retry-After` in seconds. OpenAI's own header, in milliseconds, is preferred: it is finer."""
    try:
        return str(float(milliseconds) / 1000) if milliseconds else seconds
    except ValueError:
        return seconds


def _kind(cause: BaseException, *, in_body: bool) -> tuple[Kind, str]:
    if in_body:
        if isinstance(cause, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | OSError):
            return Kind.CUT, "The upstream cut the connection in the middle of the stream."
        return Kind.GARBAGE, "The upstream sent something that is not HTTP."
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return Kind.DNS, "The upstream's name could not be resolved."
    if isinstance(cause, aiohttp.ClientSSLError | ssl.SSLError):
        return Kind.TLS, "The upstream's TLS could not be verified."
    if isinstance(cause, aiohttp.ServerTimeoutError | TimeoutError):
        return Kind.CONNECT_TIMEOUT, "The upstream could not be connected in time."
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError):
        return Kind.CONNECT, "The upstream could not be connected."
    if isinstance(cause, aiohttp.ClientConnectionError | OSError):
        return Kind.RESET, "The upstream closed the connection without an answer."
    return Kind.GARBAGE, "The upstream sent something that is not HTTP."
