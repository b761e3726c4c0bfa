"""The OpenAI SDK's HTTP, carried by an aiohttp session.

The SDK is built on httpx2; its body iteration costs three times what aiohttp's does. This transport puts aiohttp's
`ClientResponse` into the response's extensions, and the relay reads the body there.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx2
from yarl import URL

from server.core.timing import Phases
from server.upstreams.connecting import current_phases
from server.upstreams.connector import UpstreamConnector

READ_BUFFER = 16_384  # bytes; aiohttp holds at most twice this before it stops reading the socket
ERROR_BODY = 65_536  # bytes of an error's body that are looked at
ERROR_BODY_TIMEOUT = 5.0  # seconds for it


def new_session() -> aiohttp.ClientSession:
    """Return the session of one upstream: no pool limit, no cookies, small buffers, phases traced."""
    return aiohttp.ClientSession(
        connector=UpstreamConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER,
        auto_decompress=True,
        trace_configs=[_tracing()],
    )


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2 requests by an aiohttp session, which the first of them opens; one that comes after `aclose`, too.

    aiohttp's own exceptions go through as they are; the SDK wraps them and keeps them as `__cause__`.
    """

    def __init__(self, *, connect_timeout: float, tls: ssl.SSLContext, proxy: str | None) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout)
        self._tls = tls
        self._proxy = proxy

    async def connect(self, url: str) -> Phases:
        """Have a connection to `url` ready in the pool: take one that is idle, else make one, and leave it there.

        Nothing is sent over it. Raises what a request's own connecting would.
        """
        session = self._opened()
        assert session.connector is not None
        phases = Phases(time.monotonic())
        current_phases.set(phases)
        request = aiohttp.ClientRequest(
            "POST", URL(url), ssl=self._tls, proxy=URL(self._proxy) if self._proxy else None, session=session
        )
        connection = await session.connector.connect(request, [], self._timeout)
        phases.connected(time.monotonic())
        connection.release()
        return phases

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = new_session()
        return self._session

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; return when the head of the response is here."""
        response = await self._opened().request(
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
    """Return hooks that fill in what `connecting` does not see of the `Phases` that a request carries."""
    trace = aiohttp.TraceConfig()

    async def connecting(_session: object, context: Any, _params: object) -> None:
        context.begun = time.monotonic()

    async def connected(_session: object, context: Any, _params: object) -> None:
        phases: Phases | None = context.trace_request_ctx
        if phases is not None:
            now = time.monotonic()
            phases.connected(now)
            phases.waited += now - context.begun

    async def sent(_session: object, context: Any, _params: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.sent = time.monotonic()

    trace.on_connection_create_start.append(connecting)
    trace.on_connection_create_end.append(connected)
    trace.on_request_headers_sent.append(sent)
    return trace
