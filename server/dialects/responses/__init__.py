"""OpenAI's Responses: `POST /v1/responses`. A log holds the events that its clients get.

Source: https://platform.openai.com/docs/api-reference/responses.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiohttp import web

from server.api.dialect import ServedDialect
from server.api.respond import Responder
from server.core.dialect import Reader, Writer
from server.core.errors import error_body
from server.core.generation import Generation
from server.core.ports import Log
from server.core.records import Beginning, Record
from server.core.upstream_api import UpstreamApi
from server.core.wide_json import dumps, loads
from server.dialects.responses import events
from server.dialects.responses.reader import ResponsesReader
from server.dialects.responses.resource import PREFIX
from server.dialects.responses.routes import ResponsesPath, logged
from server.dialects.responses.stored import StoredResponses
from server.dialects.responses.upstream import ResponsesApi
from server.dialects.responses.writer import ResponsesWriter
from server.streams.streams import Streams


class Responses(ServedDialect):
    """The dialect of `POST /v1/responses`."""

    name = events.API
    id_prefix = PREFIX
    upstream_api: UpstreamApi | None = ResponsesApi()
    # `response.created`, `error`, `response.failed` and `[DONE]`; if the client cancels, `response.in_progress` in
    # place of the error.
    failure_records = 4

    def generation(self, beginning: Beginning) -> Generation:
        """Rebuild the request that a stream began with."""
        return logged(beginning)

    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:  # noqa: ARG002 — the protocol's
        """Return the writer of a log."""
        return ResponsesWriter(log, generation)

    def reader(self, beginning: Beginning) -> Reader:
        """Return a reader of a log."""
        return ResponsesReader(beginning)

    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        """Return the bytes that a client gets for records: `event:`, `id:` and `data:`."""
        return events.frames(first, records)

    def whole(self, records: Sequence[Record]) -> bytes:
        """Return the resource of the final event, as it is there."""
        final = next((record for record in reversed(records) if record.kind in events.TERMINAL), None)
        return b"" if final is None else dumps(loads(final.data)["response"])

    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        """Return an `error` event with the code `gap`."""
        continuation = f"it goes on from {earliest}" if earliest <= latest else "nothing comes after them"
        text = f"Records {requested} to {earliest - 1} of this stream were lost; {continuation}."
        return events.fault_frame(error_body(text, "gap", "api_error")["error"])

    def fault(self, error: Mapping[str, Any]) -> bytes:
        """Return an `error` event."""
        return events.fault_frame(error)

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        """Return the routes of this dialect."""
        stored = StoredResponses(self, streams, responder)
        return [*ResponsesPath(self, streams, responder, stored).routes(), *stored.routes()]
