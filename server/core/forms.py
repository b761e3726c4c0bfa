"""How a stream is written into its log, in the form that created it, and how that form looks on the wire."""

from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from server.core.openai.chunks import usage_chunk
from server.core.openai.intake import Piece
from server.core.openai.sse import LF, frame
from server.core.openai.tool_calls import ToolCall
from server.core.openai.transcript import Transcript
from server.core.records import CHUNK, DONE, DONE_DATA, ERROR, WHOLE, Beginning, Ending, Form, Record

# NamedTuple's own constructor is a Python function, which a token can do without.
_record = tuple.__new__

ENDING_RECORDS: dict[Form, int] = {"openai": 1, "native": 2}  # of a stream that fails with nothing before


class Writer(Protocol):
    """Turns what happens to a stream into records of its form."""

    whole: bytes  # the JSON of a non-streaming answer, which is then the one record
    called: Sequence[ToolCall]  # by the turn that finished last; a form that passes calls on in pieces knows none

    def take_up(self, records: Sequence[Record]) -> None:
        """Go on after records that an earlier relay of this stream has written."""

    def attempt(self) -> None:
        """Note that an attempt begins."""

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return the records of chunks that were just received."""

    def recovery(self, event: dict[str, Any]) -> list[Record]:
        """Return the records of a recovery."""

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        """Return the last records; the very last one is the ending record."""


class OpenAIWriter:
    """The OpenAI form: the upstream's own chunks, then `[DONE]` or an error."""

    def __init__(self, *, show_usage: bool) -> None:
        self._show_usage = show_usage
        self.whole = b""
        self.called: Sequence[ToolCall] = ()

    def take_up(self, records: Sequence[Record]) -> None:
        """Need nothing of them: a chunk stands for itself."""

    def attempt(self) -> None:
        """Forget nothing: every chunk was shown."""

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return one record a chunk."""
        if len(pieces) == 1:
            return [_record(Record, (CHUNK, pieces[0][0]))]  # a paced token: not worth a loop
        return [_record(Record, (CHUNK, data)) for data, _ in pieces]

    def recovery(self, event: dict[str, Any]) -> list[Record]:  # noqa: ARG002 — the Writer protocol's
        """Return nothing: OpenAI's protocol has no word for it."""
        return []

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        """Return the usage chunk where it is owed, and the ending."""
        if ending.error is not None:
            return [Record(ERROR, orjson.dumps(ending.error))]
        if self.whole:
            return [Record(WHOLE, self.whole)]
        records = [Record(DONE, DONE_DATA)]
        if self._show_usage and not transcript.usage_shown and ending.usage is not None:
            records.insert(0, Record(CHUNK, usage_chunk(transcript.first, ending.usage)))
        return records


def frames(beginning: Beginning, first: int, records: Sequence[Record]) -> bytes:
    """Return records, numbered from `first`, as they go out in the form that created the stream."""
    if beginning.form == "openai":
        if len(records) == 1 and LF not in (data := records[0][1]):
            return b"id: %d\ndata: %b\n\n" % (first, data)  # a paced token: not worth a list
        # The same inline: a call, and a look for line ends in each, cost three times as much as the frame itself.
        plain = b"".join([b"id: %d\ndata: %b\n\n" % (seq, data) for seq, (_, data) in enumerate(records, first)])
        if plain.count(b"\n") == 3 * len(records):
            return plain
        return b"".join([frame(seq, data) for seq, (_, data) in enumerate(records, first)])
    return b"".join([frame(seq, data, kind.encode()) for seq, (kind, data) in enumerate(records, first)])
