"""Libraries whose private parts have changed, as a release might change them: each works in its public way."""

# ruff: noqa: SLF001
# Private parts of libraries are what this file changes.

from collections import deque
from types import SimpleNamespace
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import http_writer, streams, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import BaseConnector
from aiohttp.http_writer import StreamWriter

from server.aio.aiohttp_internals.heads import HEADS
from server.aio.aiohttp_internals.posting import POSTING
from server.aio.aiohttp_internals.queues import SMALL_QUEUES
from server.aio.aiohttp_internals.upstream import CONNECT_AHEAD, UPSTREAM_PROTOCOL
from server.aio.aiohttp_internals.writing import CHUNKS, HEAD_AS_BYTES, IDLE_CLOCK, LATE_HEAD, WRITE_NOW
from server.aio.private_part import PrivatePart
from server.upstreams import sdk


class OtherDeque(deque[Any]):
    """Another class of queues."""


def queues(patch: pytest.MonkeyPatch) -> None:
    """Keep bodies in queues of another class."""
    patch.setattr(streams, "collections", SimpleNamespace(deque=OtherDeque))


def pausing(patch: pytest.MonkeyPatch) -> None:
    """Note a pause under another name: a missed resume would stall an upstream without a word."""

    def pause_reading(self: Any) -> None:
        self.stopped = True
        self._parser.pause_reading()
        self._pause_transport_reading()

    def resume_reading(self: Any, resume_parser: bool = True) -> None:
        self.stopped = False
        if resume_parser:
            self.data_received(b"")
        if not self.stopped:
            self._resume_transport_reading()

    patch.setattr(ResponseHandler, "pause_reading", pause_reading)
    patch.setattr(ResponseHandler, "resume_reading", resume_reading)


def factory(patch: pytest.MonkeyPatch) -> None:
    """Make protocols by a function that takes no class."""
    init = BaseConnector.__init__

    def changed(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._factory = self._factory.__call__

    patch.setattr(BaseConnector, "__init__", changed)


def connecting(patch: pytest.MonkeyPatch) -> None:
    """Connect by a function that is no coroutine, but gives something to wait for."""
    connect = BaseConnector.connect

    def changed(self: Any, req: Any, traces: Any, timeout: Any) -> Any:
        return connect(self, req, traces, timeout)

    patch.setattr(BaseConnector, "connect", changed)


def heads(patch: pytest.MonkeyPatch) -> None:
    """Send every head at once: the switch is gone."""
    write_headers = web.StreamResponse._write_headers

    async def changed(self: Any) -> None:
        await write_headers(self)
        self._payload_writer.send_headers()

    patch.delattr(web.StreamResponse, "_send_headers_immediately")
    patch.setattr(web.StreamResponse, "_write_headers", changed)


def writing(patch: pytest.MonkeyPatch) -> None:
    """Wait for a full transport after each write, whatever the caller wants."""
    write = StreamWriter.write

    async def changed(self: Any, chunk: bytes) -> None:
        await write(self, chunk, LIMIT=0)

    patch.setattr(StreamWriter, "write", changed)


def chunks(patch: pytest.MonkeyPatch) -> None:
    """Write the length of a chunk in more digits."""

    def changed(self: Any, chunk: bytes) -> None:
        self._writelines((b"%06x\r\n" % len(chunk), chunk, b"\r\n"))

    patch.setattr(StreamWriter, "_write_chunked_payload", changed)


def headers(patch: pytest.MonkeyPatch) -> None:
    """Make the bytes of a head when it is sent, not before."""
    write_headers = StreamWriter.write_headers

    async def changed(self: Any, status_line: str, fields: Any) -> None:
        await write_headers(self, status_line, fields)
        self.late = status_line, fields

    def get(self: Any) -> bytes | None:
        return http_writer._serialize_headers(*self.late) if self.late else None

    def put(self: Any, value: bytes | None) -> None:
        self.late = None

    patch.setattr(StreamWriter, "write_headers", changed)
    patch.setattr(StreamWriter, "_headers_buf", property(get, put), raising=False)


def answer_heads(patch: pytest.MonkeyPatch) -> None:
    """Tell the headers as they came by those that were read."""
    told = property(lambda self: tuple((name.encode(), value.encode()) for name, value in self.headers.items()))
    patch.setattr(aiohttp.ClientResponse, "raw_headers", told)


def posting(patch: pytest.MonkeyPatch) -> None:
    """Ask the writer of a request for more when its answer is made."""
    init = aiohttp.ClientResponse.__init__

    def changed(self: Any, *args: Any, stream_writer: Any, **options: Any) -> None:
        assert stream_writer.length is None or stream_writer.length >= 0
        init(self, *args, stream_writer=stream_writer, **options)

    patch.setattr(aiohttp.ClientResponse, "__init__", changed)


def idle_clock(patch: pytest.MonkeyPatch) -> None:
    """Keep the timer of an idle connection."""
    patch.setattr(web.RequestHandler, "keep_alive", lambda self, val: setattr(self, "_keepalive", val))


def requests(patch: pytest.MonkeyPatch) -> None:
    """Let the SDK build requests of a type that it does not tell."""
    build = openai._base_client.BaseClient._build_request

    def changed(self: Any, options: Any, *, retries_taken: int = 0):  # type: ignore[no-untyped-def]  # that is the change
        return build(self, options, retries_taken=retries_taken)

    patch.setattr(openai._base_client.BaseClient, "_build_request", changed)


CHANGES = {
    "queues": (queues, SMALL_QUEUES),
    "pausing": (pausing, UPSTREAM_PROTOCOL),
    "factory": (factory, UPSTREAM_PROTOCOL),
    "connecting": (connecting, CONNECT_AHEAD),
    "heads": (heads, LATE_HEAD),
    "writing": (writing, WRITE_NOW),
    "chunks": (chunks, CHUNKS),
    "headers": (headers, HEAD_AS_BYTES),
    "heads of answers": (answer_heads, HEADS),
    "posting": (posting, POSTING),
    "idle clock": (idle_clock, IDLE_CLOCK),
    "requests": (requests, sdk.BUILD_REQUEST),
}
PARTS: list[PrivatePart] = list(dict.fromkeys(part for _, part in CHANGES.values()))
