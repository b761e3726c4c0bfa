"""Small POST requests to an upstream, each as one write in the turn of the event loop in which its connection is there.

aiohttp makes each request anew from its URL and headers, and writes its body in a task of its own. That is a fifth of a
short request's CPU, and one more turn of the loop before the request goes out. Here what depends on the URL alone is
made once. The connection, the answer and all errors are aiohttp's.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
from yarl import URL

from server.aio.aiohttp_internals.queues import FakeTransport
from server.aio.aiohttp_internals.upstream import UpstreamProtocol
from server.aio.private_part import PrivatePart, completed, expect

MOST = 65_536  # bytes of a body; a larger one is for aiohttp, which waits for the socket
# Headers that say how the request is framed, or that aiohttp acts on: they are for aiohttp alone.
SPECIAL = frozenset({"host", "content-length", "transfer-encoding", "expect", "upgrade"})
FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # in a field (RFC 9110, section 5.5): they would begin another one
WRITTEN: Any = SimpleNamespace(output_size=0)  # aiohttp asks the writer of a request for nothing else


class Post:
    """Requests to one URL. `parameters` are those of aiohttp's session for reading an answer."""

    def __init__(
        self, session: aiohttp.ClientSession, url: URL, *, tls: ssl.SSLContext, timeout: aiohttp.ClientTimeout,
        parameters: Mapping[str, Any], loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        self._session = session
        self._connector = session.connector
        self._timeout = timeout
        self._parameters = parameters
        self._loop = loop
        # Only its connector looks at it, for where to connect to.
        self._request = aiohttp.ClientRequest("POST", url, ssl=tls, session=session, loop=loop)
        self._info = self._request.request_info
        self.url = url
        self._start = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {self._request.headers['Host']}\r\n"

    def takes(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether a request can be sent so."""
        return len(body) <= MOST and SPECIAL.isdisjoint(headers)

    async def send(self, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        """Send a request; return when the head of its answer is here. `headers` are by their names in lower case.

        Raises what `ClientSession.request` does.
        """
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if FORBIDDEN.search(fields.replace("\r\n", "")) or fields.count("\n") != len(headers):
            raise ValueError("A header has a character that it must not have.")
        head = f"{self._start}{fields}Content-Length: {len(body)}\r\n\r\n".encode()
        try:
            return await self._exchange(head + body)
        except aiohttp.ClientError:
            raise
        except TimeoutError as error:  # of connecting: nothing else has one
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {self.url}") from error
        except OSError as error:
            raise aiohttp.ClientOSError(*error.args) from error

    async def _exchange(self, request: bytes) -> aiohttp.ClientResponse:
        connector = self._connector
        if self._session.closed or connector is None:
            raise RuntimeError("Session is closed")
        connection = await connector.connect(self._request, traces=[], timeout=self._timeout)
        try:
            protocol = connection.protocol
            assert protocol is not None
            protocol.set_response_params(**self._parameters)
            transport = protocol.transport
            if transport is None or transport.is_closing():
                raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
            transport.write(request)
            return await self._answer(connection)
        except BaseException:
            connection.close()
            raise

    async def _answer(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        response = aiohttp.ClientResponse(
            "POST",
            self.url,
            writer=None,
            continue100=None,
            timer=NO_TIMER,
            request_info=self._info,
            traces=[],
            loop=self._loop,
            session=self._session,
            stream_writer=WRITTEN,
        )
        try:
            return await response.start(connection)
        except BaseException:
            response.close()
            raise


NO_TIMER: Any = aiohttp.helpers.TimerNoop()


def _check_posting() -> None:
    """Send a request and read its answer, over a transport that answers at once."""
    loop: Any = SimpleNamespace(get_debug=lambda: False, is_closed=lambda: False)
    protocol = UpstreamProtocol(loop)
    released: list[bool] = []

    class Answering(FakeTransport):
        def write(self, data: bytes) -> None:
            super().write(data)
            protocol.data_received(b"HTTP/1.1 200 OK\r\nX-Name: value\r\nContent-Length: 2\r\n\r\nok")

    async def connect(request: aiohttp.ClientRequest, *, traces: list[Any], timeout: Any) -> Any:
        expect((request.connection_key.host, traces, timeout) == ("a.test", [], patience), "it connects otherwise")
        return SimpleNamespace(protocol=protocol, release=lambda: released.append(True), close=lambda: None)

    inner: Any = protocol
    inner.transport = transport = Answering()
    session: Any = SimpleNamespace(connector=SimpleNamespace(connect=connect), closed=False, _resolve_charset=None)
    tls, patience = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), aiohttp.ClientTimeout()
    url, reading = URL("http://a.test:81/p?q"), {"read_bufsize": 64}
    post = Post(session, url, tls=tls, timeout=patience, parameters=reading, loop=loop)
    response = completed(post.send({"x-one": "1"}, b"{}"))
    sent = b"POST /p?q HTTP/1.1\r\nHost: a.test:81\r\nx-one: 1\r\nContent-Length: 2\r\n\r\n{}"
    expect(transport.written == sent, "a request is written otherwise")
    expect((response.status, response.headers["X-Name"]) == (200, "value"), "a head is read wrongly")
    expect(response.content.read_nowait() == b"ok" and released == [True], "a body is read wrongly")


POSTING = PrivatePart("aiohttp posting", _check_posting, instead="more CPU per request, sent a turn later")


def can_post() -> bool:
    """Whether requests can be sent so."""
    return POSTING.usable
