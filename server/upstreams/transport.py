"""The OpenAI SDK's HTTP, carried by an aiohttp session.

The SDK is built on httpx2; its body iteration costs three times what aiohttp's does. This transport puts aiohttp's
`ClientResponse` into the response's extensions, and the relay reads the body there.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx2
from yarl import URL

from server.core.timing import Phases

READ_BUFFER = 16_384  # bytes; aiohttp holds at most twice this before it stops reading the socket
RECEIVE_BUFFER = 32_768  # bytes in the kernel for one upstream connection, so that a pause is felt upstream
ERROR_BODY = 65_536  # bytes of an error's body that are looked at
ERROR_BODY_TIMEOUT = 5.0  # seconds for it
USER_TIMEOUT_MS = 30_000  # unacknowledged data after which a vanished upstream is noticed

# The phases of the attempt that runs in this task: the SDK has no way to hand something through to its transport.
current_phases: ContextVar[Phases | None] = ContextVar("current_phases", default=None)


def upstream_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket with a bounded receive buffer, on which a vanished peer is noticed."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return sock


def new_session() -> aiohttp.ClientSession:
    """Return the session of one upstream: no pool limit, no cookies, small buffers, phases traced."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, socket_factory=upstream_socket, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER,
        auto_decompress=True,
        trace_configs=[_tracing()],
    )


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2 requests by an aiohttp session, which the first of them opens; one that comes after `aclose`, too.

    aiohttp's own exceptions go through as they are; the SDK wraps them and keeps them as `__cause__`.
    """

    def __init__(self, *, connect_timeout: float, tls: ssl.SSLContext | None, proxy: str | None) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout)
        self._tls: ssl.SSLContext | bool = tls or True
        self._proxy = proxy

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; return when the head of the response is here."""
        if self._session is None:
            self._session = new_session()
        response = await self._session.request(
            request.method,
            URL(str(request.url), encoded=True),
            headers=_headers(request),
            data=request.content,
            allow_redirects=False,
            timeout=self._timeout,
            ssl=self._tls,
            proxy=self._proxy,
            trace_request_ctx=current_phases.get(),
        )
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response),
            extensions={"aiohttp": response},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _headers(request: httpx2.Request) -> list[tuple[str, str]]:
    """Return a request's headers for aiohttp, read from their bytes: httpx2 looks for an encoding at each of them.

    What the SDK tells of itself stays here: the upstream has no use for it, and it is 2 KB of an open stream.
    """
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    return [pair for pair in pairs if not pair[0].startswith("X-Stainless-")]


class RequestClient(httpx2.AsyncClient):
    """httpx2's client as the SDK uses it here: with nothing of its own to merge into a request.

    Merging no base URL, no default headers and no cookies takes a fifth of what a request costs the gateway.
    """

    def __init__(self, transport: AiohttpTransport) -> None:
        super().__init__(transport=transport, timeout=None, trust_env=False)
        self._urls: dict[str, httpx2.URL] = {}  # an upstream has one

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """Return a request of exactly these parts; timeouts are the attempt's, not httpx2's."""
        known = self._urls.get(str(url))
        if known is None:
            known = self._urls[str(url)] = httpx2.URL(url)
        return httpx2.Request(method, known, headers=options.get("headers"), content=options.get("content"))


class _Body(httpx2.AsyncByteStream):
    """The body as the SDK reads it: only of error responses, so bounded in size and time."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with asyncio.timeout(ERROR_BODY_TIMEOUT):
                left = ERROR_BODY
                while left > 0 and (data := await self._response.content.read(left)):
                    left -= len(data)
                    yield data
        except (TimeoutError, aiohttp.ClientError, OSError):
            return  # the status alone says enough

    async def aclose(self) -> None:
        self._response.release()


def _tracing() -> aiohttp.TraceConfig:
    """Return hooks that fill in the `Phases` a request carries."""
    trace = aiohttp.TraceConfig()
    marks: dict[str, str] = {"dns": "on_dns_resolvehost", "connect": "on_connection_create"}

    def begin(name: str) -> Any:
        async def mark(_session: object, context: Any, _params: object) -> None:
            setattr(context, name, time.monotonic())

        return mark

    def end(name: str) -> Any:
        async def mark(_session: object, context: Any, _params: object) -> None:
            phases: Phases | None = context.trace_request_ctx
            if phases is not None:
                setattr(phases, name, time.monotonic() - getattr(context, name))

        return mark

    for name, signal in marks.items():
        getattr(trace, f"{signal}_start").append(begin(name))
        getattr(trace, f"{signal}_end").append(end(name))

    async def sent(_session: object, context: Any, _params: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.sent = time.monotonic()

    trace.on_request_headers_sent.append(sent)
    return trace
