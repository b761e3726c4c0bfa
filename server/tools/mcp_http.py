"""An MCP server that is reached at a URL (MCP specification, "Streamable HTTP" transport)."""

from collections.abc import AsyncIterator, Mapping
from ssl import create_default_context

import httpx2

from server.tools.pace import MAX_MESSAGE, Pace

CONNECT_TIMEOUT = 5.0  # seconds
REQUEST_TIMEOUT = 30.0  # seconds for sending, and for a free connection
SILENCE_TIMEOUT = 300.0  # seconds between two reads: a server may hold a response open
FAREWELL_TIMEOUT = 1.0  # seconds for telling a server that the session is over: it may be the reason why it is
# A server that does not know the session says 404, and one that wants a session says 400. After a restart some say that
# of the old session, too. 410 is what some proxies make of it.
SESSION_REFUSED = frozenset({400, 404, 410})


class Guard(httpx2.AsyncBaseTransport):
    """Bounds what a server sends, and counts the requests that it refused because of their session (`refused`)."""

    def __init__(self) -> None:
        self.refused = 0
        self._inner = httpx2.AsyncHTTPTransport(verify=create_default_context(), trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Make one request."""
        if request.method == "DELETE":
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), FAREWELL_TIMEOUT)
        response = await self._inner.handle_async_request(request)
        if request.method == "POST" and response.status_code in SESSION_REFUSED:
            self.refused += 1
        if response.headers.get("content-encoding", "identity") != "identity":  # it was not asked for; it may be a bomb
            await response.aclose()
            raise httpx2.DecodingError("The server sent a compressed answer.", request=request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        endless = response.headers.get("content-type", "").startswith("text/event-stream")
        response.stream = _Bounded(response.stream, None if endless else MAX_MESSAGE)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    """A body of at most `limit` bytes. None: a stream of events, each of which the `mcp` package bounds."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int | None) -> None:
        self._inner = inner
        self._limit = limit
        self._pace = Pace()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for data in self._inner:
            size += len(data)
            if self._limit is not None and size > self._limit:
                raise httpx2.StreamError(f"larger than {self._limit} bytes")  # fails this call, not the session
            await self._pace.wait(len(data), messages=data.count(b"\n\n"))
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


def client_of(guard: Guard, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    """Return an HTTP client that sends these headers.

    It takes nothing from the environment: a proxy there would get the headers, and they hold keys.
    """
    timeout = httpx2.Timeout(REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT, read=SILENCE_TIMEOUT)
    return httpx2.AsyncClient(
        headers={**headers, "Accept-Encoding": "identity"}, transport=guard, timeout=timeout, trust_env=False
    )
