"""Reads a log of this dialect back: its events become chunks."""

from collections.abc import Sequence

from server.core.dialect import LoggedCall, Reader, ToolResult
from server.core.records import WHOLE, Beginning, Record
from server.core.upstream_api import Piece
from server.core.wide_json import dumps, loads
from server.dialects.messages.chunks import MessageChunks
from server.dialects.messages.events import ERROR, PING, message_id

SILENT = (PING, ERROR, WHOLE)


class MessagesReader(Reader):
    """Turns events into chunks, which all have the same identity."""

    def __init__(self, beginning: Beginning) -> None:
        self._chunks = MessageChunks(message_id(beginning.id), int(beginning.created), beginning.model)

    def read(self, record: Record) -> Sequence[Piece | LoggedCall | ToolResult]:
        """Return the chunks of an event, but not the usage: the ending has it, for those who ask."""
        if record.kind in SILENT:
            return ()
        chunks = self._chunks.of(loads(record.data))
        return [Piece(dumps(chunk), chunk) for chunk in chunks if chunk["choices"]]
