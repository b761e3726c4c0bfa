"""Writes a chat completion stream into its log, and reads it back. Each chunk is a record, byte for byte."""

from collections.abc import Sequence

import orjson

from server.core.dialect import LoggedCall, Reader, ToolResult, Writer
from server.core.openai.chunks import DONE_DATA, usage_chunk
from server.core.openai.transcript import Transcript
from server.core.records import WHOLE, Ending, Record
from server.core.upstream_api import CHAT, Piece
from server.core.wide_json import dumps, loads

CHUNK, ERROR, DONE = "chunk", "error", "done"  # the kinds of records

# NamedTuple's own constructor is a Python function. This one saves that call per token.
_record = tuple.__new__


class ChatWriter(Writer):
    """Writes the upstream's own chunks, then `[DONE]` or an error. `show_usage`: the client asked for the usage."""

    token_kind = CHUNK

    def __init__(self, *, show_usage: bool) -> None:
        self._show_usage = show_usage
        self._whole = b""

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return one record per chunk."""
        if len(pieces) == 1 and pieces[0][2] is CHAT:
            return [_record(Record, (CHUNK, pieces[0][0]))]  # a single token does not need a loop
        return [_record(Record, (CHUNK, data)) for piece in pieces if (data := chat_data(piece))]

    def whole_answer(self, answer: Piece) -> None:
        """Keep the JSON of an answer that is not streamed."""
        self._whole = chat_data(answer)

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        """Return the usage chunk, if the client still needs it, and `[DONE]`.

        A failed stream has its error instead of both. An answer that is not streamed has its JSON instead.
        """
        if ending.error is not None:
            return [Record(ERROR, orjson.dumps(ending.error))]
        if self._whole:
            return [Record(WHOLE, self._whole)]
        records = [Record(DONE, DONE_DATA)]
        if self._show_usage and not transcript.usage_shown and ending.usage is not None:
            records.insert(0, Record(CHUNK, usage_chunk(transcript.first, ending.usage)))
        return records


def chat_data(piece: Piece) -> bytes:
    """Return a piece in this dialect. Empty if an upstream that speaks another one said nothing that this one has."""
    if piece.api == CHAT:
        return piece.data
    chunk = piece.chunk
    return dumps(chunk) if chunk.get("choices") or chunk.get("usage") else b""


class ChatReader(Reader):
    """Reads chunks back as pieces."""

    def read(self, record: Record) -> Sequence[Piece | LoggedCall | ToolResult]:
        """Return the piece of a chunk. Any other record has none."""
        return [Piece(record.data, loads(record.data))] if record.kind == CHUNK else ()
