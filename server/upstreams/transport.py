"""The OpenAI SDK's HTTP, carried by an aiohttp session.

The SDK is built on httpx2, whose reading of a body costs three times what aiohttp's does. This transport puts aiohttp's
`ClientResponse` into the response's extensions, and the relay reads the body there.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, NamedTuple

import aiohttp
import httpx2
from yarl import URL

from server.aio.aiohttp_internals.posting import Post, can_post
from server.aio.aiohttp_internals.upstream import connect_idle, idle_connections
from server.core.timing import Phases
from server.upstreams.connecting import UpstreamConnector, current_phases

READ_BUFFER = 16_384  # bytes; aiohttp holds at most twice this before it stops reading the socket
# Bytes of one line of an answer's head. aiohttp's own bound of 8,190 refuses answers that other clients take: policies,
# cookies and traces of proxies are longer. 65,536 is the bound of Python's http.client, and so of `requests`.
HEAD_LINE = 65_536
ERROR_BODY = 65_536  # bytes of an error's body that are looked at
ERROR_BODY_TIMEOUT = 5.0  # seconds for it
# How answers are read.
READING: Mapping[str, Any] = {
    "read_bufsize": READ_BUFFER,
    "max_line_size": HEAD_LINE,
    "max_field_size": HEAD_LINE,
    "auto_decompress": True,
}


def new_session() -> aiohttp.ClientSession:
    """Return the session of one upstream: without a limit of connections, without cookies, with small buffers."""
    return aiohttp.ClientSession(
        connector=UpstreamConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        **READING,
    )


class Outgoing(NamedTuple):
    """A request as aiohttp takes it. httpx2 would encode each of its headers anew."""

    url: URL
    headers: dict[str, str]
    body: bytes | AsyncIterable[bytes] | None
    method: str = "POST"


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends requests by an aiohttp session. The first request opens it, also the first one after `aclose`.

    aiohttp's exceptions go through as they are. The SDK wraps them, and keeps them as `__cause__`.
    """

    def __init__(self, *, connect_timeout: float, tls: ssl.SSLContext, proxy: str | None) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._post: Post | None = None  # of the URL that was asked last: nearly always all requests go to one
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout)
        self._tls = tls
        self._proxy = proxy

    async def connect(self, url: str) -> Phases:
        """Have a connection to `url` ready in the pool: take an idle one or make one, and leave it there.

        Sends nothing. Call only if `can_connect_ahead`. Raises what a request's own connecting would.
        """
        phases = Phases(time.monotonic())
        current_phases.set(phases)
        await connect_idle(self._opened(), url, tls=self._tls, proxy=self._proxy, timeout=self._timeout)
        return phases

    @property
    def idle(self) -> int:
        """How many connections wait for a request. Ask only if `can_connect_ahead`."""
        session = self._session
        return 0 if session is None or session.connector is None else idle_connections(session.connector)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = new_session()
        return self._session

    async def send(self, outgoing: Outgoing) -> httpx2.Response:
        """Send a request; return when the head of its response is here."""
        response = await self._answered(outgoing)
        extensions = {"aiohttp": response}
        if response.status == 200:
            return _good(extensions)
        return httpx2.Response(
            response.status, headers=response.raw_headers, stream=_Body(response), extensions=extensions
        )

    async def _answered(self, outgoing: Outgoing) -> aiohttp.ClientResponse:
        """Send a request; return aiohttp's response when its head is here."""
        session = self._opened()
        if (
            can_post()
            and outgoing.method == "POST"
            and isinstance(outgoing.body, bytes)
            and self._proxy is None
            and outgoing.url.user is None
        ):
            post = self._post
            if post is None or post.url != outgoing.url:
                post = self._post = Post(
                    session,
                    outgoing.url,
                    tls=self._tls,
                    timeout=self._timeout,
                    parameters={**READING, "read_until_eof": True},
                    loop=asyncio.get_running_loop(),
                )
            if post.takes(outgoing.headers, outgoing.body):
                return await post.send(outgoing.headers, outgoing.body)
        return await session.request(
            outgoing.method,
            outgoing.url,
            headers=outgoing.headers,
            data=outgoing.body,
            allow_redirects=False,
            timeout=self._timeout,
            ssl=self._tls,
            proxy=self._proxy,
        )

    async def get(self, url: str, headers: Mapping[str, str], *, limit: int) -> tuple[int, bytes]:
        """Send a GET request. Return the status and the body, of which at most one read more than `limit` bytes."""
        response = await self._opened().request(
            "GET",
            URL(url, encoded=True),
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout,
            ssl=self._tls,
            proxy=self._proxy,
        )
        async with response:
            body = bytearray()
            while len(body) <= limit and (data := await response.content.readany()):
                body += data
            return response.status, bytes(body)

    async def aclose(self) -> None:
        """Close every connection."""
        session, self._session, self._post = self._session, None, None
        if session is not None:
            await session.close()


GOOD = httpx2.Response(200)


def _good(extensions: dict[str, aiohttp.ClientResponse]) -> httpx2.Response:
    """Return a response of 200, of which the SDK reads nothing else. To make each anew is a fiftieth of a request."""
    response = object.__new__(httpx2.Response)
    vars(response).update(vars(GOOD), extensions=extensions)
    return response


class _Body(httpx2.AsyncByteStream):
    """The body of an error, which is all that the SDK reads. Bounded in size and time."""

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
