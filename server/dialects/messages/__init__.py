"""Anthropic's Messages API. A log holds its events, whether an upstream has sent them or they are made of chunks.

Source: https://platform.claude.com/docs/en/api/messages.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiohttp import web

from server.api.dialect import ServedDialect
from server.api.respond import Responder
from server.core.dialect import Reader, Writer
from server.core.errors import error_body
from server.core.generation import Generation
from server.core.openai.sse import unnumbered
from server.core.ports import Log
from server.core.records import Beginning, Record
from server.core.upstream_api import UpstreamApi
from server.dialects.messages.errors import error_answer, error_event
from server.dialects.messages.generation import logged
from server.dialects.messages.reader import MessagesReader
from server.dialects.messages.routes import MessagesPaths
from server.dialects.messages.upstream import MessagesApi
from server.dialects.messages.writer import MessagesWriter
from server.streams.streams import Streams


class Messages(ServedDialect):
    """The dialect of `POST /v1/messages`."""

    name = "messages"
    upstream_api: UpstreamApi | None = MessagesApi()

    def generation(self, beginning: Beginning) -> Generation:
        """Rebuild the request that a stream began with."""
        return logged(beginning)

    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:  # noqa: ARG002 — the protocol's
        """Return the writer of a log."""
        return MessagesWriter(log, generation)

    def reader(self, beginning: Beginning) -> Reader:
        """Return a reader of a log."""
        return MessagesReader(beginning)

    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        """Return the bytes that a client gets for records: `event:`, `id:` and `data:`."""
        if len(records) == 1:  # a single token does not need a list
            kind, data = records[0]
            return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), first, data)
        frames = [
            b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), seq, data)
            for seq, (kind, data) in enumerate(records, first)
        ]
        return b"".join(frames)

    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        """Return the event `error` with the code `gap`."""
        continuation = f"it goes on from {earliest}" if earliest <= latest else "nothing comes after them"
        text = f"Records {requested} to {earliest - 1} of this stream were lost; {continuation}."
        return self.fault(error_body(text, "gap", "api_error")["error"])

    def fault(self, error: Mapping[str, Any]) -> bytes:
        """Return the event `error`."""
        kind, data = error_event({"error": error}, 500, "")
        return unnumbered(data, kind.encode())

    def error(self, body: Mapping[str, Any], status: int, request_id: str) -> Mapping[str, Any]:
        """Return Anthropic's error object."""
        return error_answer(body, status, request_id)

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        """Return the routes of this dialect."""
        return MessagesPaths(self, streams, responder).routes()
