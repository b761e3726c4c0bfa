"""The gateway's own protocol: `POST /api/stream` and its events (docs/protocol.md)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from server.api.dialect import ServedDialect
from server.api.respond import Responder
from server.core.dialect import Reader, Writer
from server.core.errors import error_body
from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.ports import Log
from server.core.records import Beginning, Ending, Record
from server.dialects.native.events import ERROR, GAP, event, event_frame, last_events, unnumbered_frame
from server.dialects.native.reader import NativeReader
from server.dialects.native.routes import NativePath
from server.dialects.native.writer import NativeWriter
from server.streams.streams import Streams


class Native(ServedDialect):
    """The dialect of `POST /api/stream`."""

    name = "native"
    whole_calls = True
    server_tools = True
    failure_records = 2

    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:  # noqa: ARG002 — the protocol's
        """Return the writer of a log."""
        return NativeWriter(log, client_tools)

    def reader(self, beginning: Beginning) -> Reader:
        """Return a reader of a log."""
        return NativeReader(beginning)

    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        """Return the bytes that a client gets for records: `event:`, `id:` and `data:`."""
        return b"".join([event_frame(seq, record) for seq, record in enumerate(records, first)])

    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        """Return the event `gap`."""
        return unnumbered_frame(event(GAP, requested=requested, earliest=earliest, latest=latest))

    def broken_off(self, after: int, tail: int, ending: Ending) -> bytes:
        """Return the gap, the error and `done`. Every native stream ends with `done`."""
        error = error_body("The rest of this stream is gone.", "gap", "api_error")
        error["error"]["retryable"] = True
        failed = replace(ending, state=State.FAILED, reason="gap", error=error)
        return self.gap(after + 1, tail + 1, tail) + b"".join(map(unnumbered_frame, last_events(failed)))

    def fault(self, error: Mapping[str, Any]) -> bytes:
        """Return the event `error`."""
        fields = {"message": error["message"], "code": error["code"], "retryable": True, "resumable": True}
        return unnumbered_frame(event(ERROR, **fields))

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        """Return the routes of this dialect."""
        return NativePath(self, streams, responder).routes()
