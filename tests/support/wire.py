"""A client on a raw socket: it shows every byte as it came, and can leave in every way."""

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

RST_ON_CLOSE = struct.pack("ii", 1, 0)
WAIT = 20.0  # seconds for anything that is expected to come
BLOCK = re.compile(rb"(?:event: (?P<event>[a-z_.]+)\n)?id: (?P<id>0|[1-9][0-9]*)\ndata: (?P<data>[^\n]*)\n\n")
COMMENT = b": hb\n"
RETRY = re.compile(rb"retry: [0-9]+\n")


class CutError(Exception):
    """The connection ended before the response did."""


class Event(NamedTuple):
    """One event, framed exactly as docs/protocol.md says."""

    id: int
    data: bytes
    event: str = ""


def parse(body: bytes) -> tuple[list[Event], int]:
    """Return the events of a body and the number of its heartbeats. Raises AssertionError at any other byte."""
    events, heartbeats, at = [], 0, 0
    while at < len(body):
        if body.startswith(COMMENT, at):
            heartbeats += 1
            at += len(COMMENT)
        elif found := RETRY.match(body, at):
            at = found.end()
        else:
            found = BLOCK.match(body, at)
            assert found, f"not a frame of ours: {body[at : at + 80]!r}"
            events.append(Event(int(found["id"]), found["data"], (found["event"] or b"").decode()))
            at = found.end()
    return events, heartbeats


def events_of(body: bytes) -> list[Event]:
    """Return the events of a body."""
    return parse(body)[0]


def texts(events: list[Event], choice: int = 0) -> list[str]:
    """Return the content of each chunk of one choice."""
    chunks = [json.loads(event.data) for event in events if event.data != b"[DONE]"]
    deltas = [one["delta"] for chunk in chunks for one in chunk.get("choices") or () if one["index"] == choice]
    return [delta["content"] for delta in deltas if delta.get("content")]


class Answer(NamedTuple):
    """A whole response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object. Raises AssertionError unless it has OpenAI's shape."""
        error: dict[str, Any] = self.json["error"]
        assert self.headers["content-type"] == "application/json; charset=utf-8" or (
            self.headers["content-type"] == "application/json"
        )
        assert {"message", "type", "param", "code"} <= error.keys()
        assert isinstance(error["message"], str)
        assert error["message"]
        return error

    @property
    def events(self) -> list[Event]:
        """The events of an SSE body."""
        return events_of(self.body)


class Client:
    """One connection. `async with Client(root) as client`; leaving closes it with a FIN. `tls` is for https."""

    def __init__(self, root: str, tls: ssl.SSLContext | None = None) -> None:
        address = urlsplit(root)
        self._host, self._port = address.hostname, address.port
        self._tls = tls
        self._chunked = False
        self._left: int | None = None
        self._done = False
        self._body = bytearray()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def body(self) -> bytes:
        """The body of the response, as far as it was read."""
        return bytes(self._body)

    @property
    def sock(self) -> socket.socket:
        """The socket, for its options."""
        found: socket.socket = self._writer.get_extra_info("socket")
        return found

    # --- sending -----------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        """Send a request; a body that is not bytes goes as JSON."""
        await self.send(request(method, path, body, headers, host=f"{self._host}:{self._port}"))

    async def complete(self, model: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        """Ask for a completion, streaming unless told otherwise."""
        await self.ask("POST", "/v1/chat/completions", completion(model, **fields), headers)

    # --- reading -----------------------------------------------------------------------------------------------

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a head: status and headers, names in lower case."""
        async with asyncio.timeout(WAIT):
            try:
                raw = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise CutError from error
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        self._chunked = headers.get("transfer-encoding") == "chunked"
        self._left = int(headers["content-length"]) if "content-length" in headers else None
        status = int(first.split(" ")[1])
        self._done = status in (204, 304) or self._left == 0
        self._body.clear()
        return status, headers

    async def more(self) -> bool:
        """Read a piece of the body; return False at its proper end. Raises CutError if it ends before that."""
        if self._done:
            return False
        async with asyncio.timeout(WAIT):
            try:
                if self._chunked:
                    size = int((await self._reader.readuntil(b"\r\n"))[:-2], 16)
                    piece = (await self._reader.readexactly(size + 2))[:-2]
                    self._done = size == 0
                else:
                    piece = await self._reader.read(65_536)
                    if self._left is not None:
                        self._left -= len(piece)
                        self._done = self._left <= 0
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise CutError from error
        if not piece and not self._done:
            self._done = True
            if self._left:
                raise CutError
        self._body += piece
        return not self._done or bool(piece)

    async def events(self, count: int) -> list[Event]:
        """Read until there are at least `count` events; return all of them."""
        while self._body.count(b"\n\n") < count and await self.more():
            pass
        return events_of(self.body)

    async def rest(self) -> list[Event]:
        """Read to the end; return all events."""
        while await self.more():
            pass
        return events_of(self.body)

    async def answer(self) -> Answer:
        """Read a whole response."""
        status, headers = await self.head()
        while await self.more():
            pass
        return Answer(status, headers, self.body)

    async def closed(self) -> bytes:
        """Read to the end of the connection, however it comes, and close it; return what was still there."""
        data = b""
        async with asyncio.timeout(WAIT):
            try:
                while piece := await self._reader.read(65_536):
                    data += piece
            except ConnectionError:
                pass
        self.close()
        return data

    def pause_reading(self) -> None:
        """Take nothing from the socket any more, so that the kernel's buffers fill."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a stream it is a ReadTransport as well

    def resume_reading(self) -> None:
        """Take what comes again."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]  # of a stream it is a ReadTransport as well

    # --- leaving -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection with a FIN."""
        self._writer.close()

    def leave(self, how: str = "fin") -> None:
        """Leave by FIN (`fin`), RST (`rst`), or by closing only the sending half (`half`)."""
        if how == "half":
            self.sock.shutdown(socket.SHUT_WR)
            return
        if how == "rst":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        self._writer.transport.abort()


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = WAIT) -> Any:
    """Call a condition until its result is true, and return that. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):  # noqa: ASYNC110  # other processes set no event
            await asyncio.sleep(0.01)
    return found


def completion(model: str, **fields: Any) -> dict[str, Any]:
    """Give the body of a completion request."""
    return {"model": model, "messages": [{"role": "user", "content": "Say it."}], "stream": True, **fields}


def request(
    method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, host: str = "127.0.0.1"
) -> bytes:
    """Write a request."""
    fields = {"Host": host}
    payload = b""
    if body is not None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(payload))}
    fields |= headers or {}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + payload


async def call(root: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Make one request on a connection of its own."""
    async with Client(root) as client:
        await client.ask(method, path, body, headers)
        return await client.answer()


async def complete(root: str, model: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """Make one completion request and read all of its answer."""
    return await call(root, "POST", "/v1/chat/completions", completion(model, **fields), headers)
