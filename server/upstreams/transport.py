"""The OpenAI SDK's HTTP, carried by an aiohttp session.

The SDK is built on httpx2; its body iteration costs three times what aiohttp's does. This transport puts aiohttp's
`ClientResponse` into the response's extensions, and the relay reads the body there.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

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
    """Return the session of one upstream: no pool limit, no cookies, small buffers."""
    return aiohttp.ClientSession(
        connector=UpstreamConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER,
        auto_decompress=True,
    )


class Outgoing(NamedTuple):
    """A request as aiohttp takes it: httpx2 would look for an encoding at each of its headers."""

    url: str
    headers: dict[str, str]
    body: bytes


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
        connection.release()
        return phases

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = new_session()
        return self._session

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send what is `outgoing` among the request's extensions; return when the head of the response is here."""
        outgoing: Outgoing = request.extensions["outgoing"]
        response = await self._opened().request(
            request.method,
            URL(outgoing.url, encoded=True),
            headers=outgoing.headers,
            data=outgoing.body,
            allow_redirects=False,
            timeout=self._timeout,
            ssl=self._tls,
            proxy=self._proxy,
        )
        return httpx2.Response(
            response.status,
            headers=None if response.status == 200 else response.raw_headers,  # the SDK reads them of errors only
            stream=_Body(response),
            extensions={"aiohttp": response},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


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
